r"""A function of a live module as a program: traced once by ``torch.export``, then data.

What cannot be kept is refused with the operator and the layer that it stands in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx import GraphModule, Node

from vae.model.program import DTYPES, OPERATORS, STRINGS, VERSION

__all__ = ["ROWS", "Refused", "Traced", "last_operator", "trace"]

# Where a network takes only one number of rows, it gets this one.
ROWS = 32
_EXAMPLE_ROWS = 3

_SIZES = {operator.add: "add", operator.sub: "sub", operator.mul: "mul",
          operator.floordiv: "floordiv"}  # fmt: skip
_RESHAPING = tuple(
    f"aten.{name}"
    for name in ("view.default", "reshape.default", "unflatten.int", "flatten.using_ints",
                 "permute.default", "contiguous.default", "clone.default", "alias.default",
                 "unsqueeze.default", "squeeze.dim")
)  # fmt: skip
# They say something about sizes, and compute nothing.
_ASSERTIONS = ("aten._assert", "aten.sym_constrain", "aten.lift_fresh")
_IDENTITIES = ("aten.lift_fresh_copy.default", "aten.detach_.default", "aten.to.device")
# Keywords about where and how a tensor lies in memory.
_OF_MEMORY = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "copy",
              "requires_grad")  # fmt: skip


class Refused(ValueError):
    """Raised for a model that cannot be imported; the message says why and what to do."""


class Traced(NamedTuple):
    """A network as data.

    Attributes:
        program: The program, to be written as JSON.
        tensors: Its weights and constants by name.
    """

    program: dict[str, Any]
    tensors: dict[str, Tensor]


class _Function(nn.Module):
    """A function of a module, in the form that ``torch.export`` takes."""

    def __init__(self, module: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401
        return self.function(x)


def trace(
    module: nn.Module,
    function: Callable[[Tensor], tuple[Tensor, ...]],
    example: Tensor,
    what: str,
) -> Traced:
    r"""Traces a function of a module.

    Args:
        module: What holds the weights.
        function: Maps an input, rows first, to tensors.
        example: One row of input, with shape :math:`(1, *)`.
        what: What the function is called in messages, such as ``"encode"``.

    Returns:
        The network as data.

    Raises:
        Refused: If it cannot be traced, draws at random, or uses an operator that is not in the
            list.
    """
    wrapped = _Function(module, function).eval()
    checks = Distribution._validate_args
    # A distribution that looks at its values makes the way depend on them.
    Distribution.set_default_validate_args(False)
    try:
        exported, rows = _export(wrapped, example, what)
    finally:
        Distribution.set_default_validate_args(checks)
    return _Writer(exported, rows, what).traced


def last_operator(program: dict[str, Any]) -> str:
    """The operator that a program's first output comes from, but for a change of its shape."""
    first = 1 + len(program["weights"])
    at = program["outputs"][0]
    while at >= first and (node := program["nodes"][at - first])[0] in _RESHAPING:
        at = node[1][0]["n"]
    return program["nodes"][at - first][0] if at >= first else ""


def _export(
    wrapped: nn.Module, example: Tensor, what: str
) -> tuple[torch.export.ExportedProgram, int | None]:
    """The exported graph for any number of rows, or else for :data:`ROWS`."""
    first_error: Exception | None = None
    for rows, size in (
        (None, torch.export.Dim("rows", min=1, max=4_096)),
        (None, torch.export.Dim.AUTO),
        (ROWS, None),
    ):
        count = rows or _EXAMPLE_ROWS
        inputs = (example.expand(count, *example.shape[1:]).contiguous(),)
        shapes = None if size is None else {"x": {0: size}}
        try:
            with torch.no_grad():
                exported = torch.export.export(
                    wrapped, inputs, dynamic_shapes=shapes, strict=False
                )
            if size is not torch.export.Dim.AUTO or _is_free(exported):
                return exported, rows
        except Exception as error:  # user code runs here, and may raise anything
            first_error = first_error or error
    raise Refused(f"{what} cannot be traced: {_reason(first_error)}") from first_error


def _is_free(exported: torch.export.ExportedProgram) -> bool:
    """Whether the number of rows was kept open."""
    inputs = [n for n in exported.graph.nodes if n.op == "placeholder"]
    value = inputs[-1].meta.get("val")
    return isinstance(value, Tensor) and not isinstance(value.shape[0], int)


def _reason(error: Exception | None) -> str:
    """What torch or the model said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0][:300] if lines else type(error).__name__
    if "data-dependent" in str(error).lower() or "DataDependent" in type(error).__name__:
        return f"its way depends on the values of an image, which cannot be kept as data ({said})"
    return f"{type(error).__name__}: {said}"


class _Writer:
    """Writes an exported graph as a program."""

    def __init__(
        self, exported: torch.export.ExportedProgram, rows: int | None, what: str
    ) -> None:
        self._exported, self._what = exported, what
        self._weights: list[str] = []
        self._tensors: dict[str, Tensor] = {}
        self._nodes: list[tuple[str, list, dict]] = []
        # What stands for a node of the graph: ("input",), ("weight", i), ("node", i) or a number.
        self._values: dict[Node, Any] = {}
        signature = exported.graph_signature
        held = {**exported.state_dict, **exported.constants}
        targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        mapping = {}
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in targets:
                    name = targets[node.name]
                    mapping[node] = self._weight(name, held[name])
                elif node.name in signature.user_inputs:
                    mapping[node] = ("input",)
        outputs = self._graph(exported.graph_module, mapping)
        # A buffer that the graph changes, such as running statistics, is not given back.
        given = [
            value
            for value, spec in zip(outputs, signature.output_specs, strict=True)
            if spec.kind == torch.export.graph_signature.OutputKind.USER_OUTPUT
        ]
        self.traced = Traced(self._program(given, rows), self._tensors)

    def _weight(self, name: str, tensor: Tensor) -> tuple[str, int]:
        self._weights.append(name)
        self._tensors[name] = tensor.detach().clone().contiguous()
        return ("weight", len(self._weights) - 1)

    def _graph(self, module: GraphModule, values: dict[Node, Any]) -> list[Any]:
        """Writes the nodes of a graph, given what its inputs stand for."""
        for node in module.graph.nodes:
            if node.op == "get_attr":
                found = module
                for part in str(node.target).split("."):
                    found = getattr(found, part)
                values[node] = (
                    found
                    if isinstance(found, nn.Module)
                    else self._weight(f"constant.{len(self._weights)}", found)
                )
            elif node.op == "call_function":
                values[node] = self._call(node, values)
            elif node.op == "output":
                return [self._value(one, values) for one in node.args[0]]
        return []

    def _value(self, one: Any, values: dict[Node, Any]) -> Any:  # noqa: ANN401
        return values[one] if isinstance(one, Node) else one

    def _call(self, node: Node, values: dict[Node, Any]) -> Any:  # noqa: ANN401
        target, name = node.target, str(node.target)
        if name == "wrap_with_set_grad_enabled":
            _, inner, *given = (self._value(one, values) for one in node.args)
            inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
            return self._graph(inner, dict(zip(inputs, given, strict=True)))
        if target is operator.getitem:
            whole, index = (self._value(one, values) for one in node.args)
            if isinstance(whole, list):
                return whole[index]
            return self._add("getitem", [whole, index], {})
        if target in _SIZES:
            return self._add(
                f"size.{_SIZES[target]}", [self._value(a, values) for a in node.args], {}
            )
        if name.startswith(_ASSERTIONS) and name not in _IDENTITIES:
            return None
        args = [self._argument(one, values) for one in node.args]
        if name in _IDENTITIES:
            return args[0]
        kwargs = {
            key: self._argument(one, values)
            for key, one in node.kwargs.items()
            if key not in _OF_MEMORY and one is not None
        }
        name, args, kwargs = _plain(name, args, kwargs)
        if name not in OPERATORS:
            self._refuse(node, name)
        result = self._add(name, args, kwargs)
        # An operator that writes into its first argument: from here on that is the result.
        if target._schema.is_mutable if hasattr(target, "_schema") else False:
            values[node.args[0]] = result
        return result

    def _refuse(self, node: Node, name: str) -> None:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        layer = stack[-1][0].removeprefix("L['self'].").removeprefix("module.") if stack else ""
        where = f" in layer {layer!r}" if layer else ""
        if "rand" in name or "bernoulli" in name or "multinomial" in name or "normal" in name:
            raise Refused(
                f"{self._what} draws at random ({name}{where}): let it return the mean and the "
                "spread of q(z|x), and leave the drawing to Elboscope."
            )
        raise Refused(
            f"{self._what} uses {name}{where}, which is not among the operators that can be kept "
            "as data; replace it by simpler ones, or ask for it to be added."
        )

    def _add(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[str, int]:
        self._nodes.append((name, args, kwargs))
        return ("node", len(self._nodes) - 1)

    def _argument(self, one: Any, values: dict[Node, Any]) -> Any:  # noqa: ANN401
        if isinstance(one, Node):
            return values[one]
        if isinstance(one, list | tuple):
            return [self._argument(part, values) for part in one]
        return one

    def _program(self, outputs: list[Any], rows: int | None) -> dict[str, Any]:
        self._take_off_sigmoids()
        self._keep_needed(outputs)
        nodes = [
            [
                name,
                [self._json(one) for one in args],
                {k: self._json(v) for k, v in kwargs.items()},
            ]
            for name, args, kwargs in (self._nodes[i] for i in self._node_numbers)
        ]
        weights = [self._weights[i] for i in self._weight_numbers]
        self._tensors = {name: self._tensors[name] for name in weights}
        return {
            "version": VERSION, "rows": rows, "weights": weights, "nodes": nodes,
            "outputs": [self._number(one) for one in outputs],
        }  # fmt: skip

    def _take_off_sigmoids(self) -> None:
        """The logit of a sigmoid is what went into it: exact, and never infinite."""
        for i, (name, args, _) in enumerate(self._nodes):
            if name != "aten.logit.default":
                continue
            on_the_way = [args[0]]
            while (source := self._node(on_the_way[-1]))[0] in _RESHAPING:
                on_the_way.append(source[1][0])
            used_once = all(self._uses(one) == 1 for one in on_the_way)
            if source[0] == "aten.sigmoid.default" and used_once:
                self._nodes[on_the_way[-1][1]] = ("aten.alias.default", source[1], {})
                self._nodes[i] = ("aten.alias.default", args[:1], {})

    def _node(self, value: Any) -> tuple[str, list, dict]:  # noqa: ANN401
        return self._nodes[value[1]] if value[0] == "node" else ("", [], {})

    def _uses(self, value: Any) -> int:  # noqa: ANN401
        return sum(
            value == one or (isinstance(one, list) and value in one)
            for _, args, kwargs in self._nodes
            for one in (*args, *kwargs.values())
        )

    def _keep_needed(self, outputs: list[Any]) -> None:
        """Numbers the nodes and weights that the outputs need; others are left out."""
        nodes, weights, asked = set(), set(), [*outputs]
        while asked:
            match asked.pop():
                case ("weight", int() as i):
                    weights.add(i)
                case ("node", int() as i) if i not in nodes:
                    nodes.add(i)
                    asked += [*self._nodes[i][1], *self._nodes[i][2].values()]
                case list() as several:
                    asked += several
        self._weight_numbers = {i: at for at, i in enumerate(sorted(weights), 1)}
        self._node_numbers = {
            i: at for at, i in enumerate(sorted(nodes), 1 + len(self._weight_numbers))
        }

    def _number(self, value: Any) -> int:  # noqa: ANN401
        match value:
            case ("input",):
                return 0
            case ("weight", int() as i):
                return self._weight_numbers[i]
            case ("node", int() as i):
                return self._node_numbers[i]
        raise Refused(f"{self._what} returns something else than tensors.")

    def _json(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, tuple):
            return {"n": self._number(value)}
        if isinstance(value, list):
            return [self._json(one) for one in value]
        if isinstance(value, torch.dtype):
            names = [name for name, dtype in DTYPES.items() if dtype is value]
            if not names:
                raise Refused(f"{self._what} computes in {value}; bring the model to float32.")
            return {"dtype": names[0]}
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str) and value in STRINGS:
            return value
        raise Refused(f"{self._what} passes {str(value)[:60]!r} to an operator.")


def _plain(
    name: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[str, list[Any], dict[str, Any]]:
    """An operator in the form that the table has."""
    function, _, overload = name.removeprefix("aten.").partition(".")
    if name in OPERATORS:
        return name, args, kwargs
    if function.endswith("_") and f"aten.{function[:-1]}.{overload}" in OPERATORS:
        return f"aten.{function[:-1]}.{overload}", args, kwargs
    if name in ("aten.to.dtype_layout", "aten._to_copy.default"):
        return "aten.to.dtype", [args[0], kwargs.get("dtype", torch.float32)], {}
    if name == "aten.to.device":
        return "aten.alias.default", args[:1], {}
    return name, args, kwargs
