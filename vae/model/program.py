r"""A network held as data: a list of nodes over a closed table of operators, and its tensors.

Opening one runs no code but this file's and torch's. What it may cost is known before anything is
allocated: its shapes, memory and work are computed on torch's ``meta`` device, which holds none.

A program is a JSON object::

    {"version": 1, "rows": null, "weights": ["fc1.weight", ...],
     "nodes": [["aten.linear.default", [{"n": 0}, {"n": 1}, {"n": 2}], {}], ...],
     "outputs": [7, 9]}

Values are numbered: 0 is the input, then come the weights, then the nodes in their order. An
argument is such a number ``{"n": 3}``, a whole number, a float, a boolean, null, a list of
arguments, ``{"dtype": "float32"}`` or a string of :data:`STRINGS`. A node names only values that
stand before it, so there are no circles. ``rows`` is the only number of rows that the network
takes, where it takes but one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "DTYPES",
    "OPERATORS",
    "STRINGS",
    "Cost",
    "Program",
    "ProgramError",
    "relative_difference",
]

VERSION = 1
STRINGS = (
    "none", "tanh", "same", "valid", "constant", "reflect", "replicate", "circular", "floor",
    "trunc",
)  # fmt: skip
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "int32", "int64", "bool")}

_MOST_WEIGHTS, _MOST_NODES, _MOST_ARGUMENTS, _DEEPEST = 2_000, 5_000, 1_000, 4
_MOST_INTEGER = 2**31
# Of one call: the bytes of one tensor, the elements of all, and multiply-adds times two.
_MOST_BYTES, _MOST_ELEMENTS, _MOST_FLOPS = 2**31, 2**36, 2**44
_MOST_PARTS = 4_096

_ATEN = """
linear.default bilinear.default conv1d.default conv2d.default conv2d.padding conv3d.default
conv_transpose1d.default conv_transpose2d.input convolution.default
group_norm.default layer_norm.default instance_norm.default rms_norm.default
relu.default relu6.default leaky_relu.default prelu.default elu.default selu.default celu.default
silu.default gelu.default mish.default hardtanh.default hardswish.default hardsigmoid.default
sigmoid.default tanh.default softplus.default log_sigmoid.default softmax.int log_softmax.int
glu.default exp.default exp2.default log.default log1p.default expm1.default sqrt.default
rsqrt.default square.default pow.Tensor_Scalar pow.Tensor_Tensor abs.default neg.default
sign.default reciprocal.default sin.default cos.default atan.default erf.default
floor.default round.default logit.default lgamma.default
add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar rsub.Tensor mul.Tensor mul.Scalar
div.Tensor div.Scalar maximum.default minimum.default fmod.Scalar remainder.Scalar
addcmul.default lerp.Scalar where.self clamp.default clamp.Tensor clamp_min.default
clamp_max.default nan_to_num.default
eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar eq.Tensor lt.Tensor le.Tensor
gt.Tensor ge.Tensor logical_and.default logical_or.default logical_not.default
matmul.default mm.default bmm.default addmm.default baddbmm.default einsum.default
scaled_dot_product_attention.default
max_pool2d.default avg_pool2d.default adaptive_avg_pool2d.default
upsample_nearest2d.vec upsample_nearest2d.default upsample_bilinear2d.vec
upsample_bilinear2d.default upsample_bicubic2d.vec pixel_shuffle.default pixel_unshuffle.default
pad.default constant_pad_nd.default reflection_pad2d.default replication_pad2d.default
view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int
view_as.default reshape_as.default squeeze.default squeeze.dim unsqueeze.default permute.default
transpose.int t.default movedim.int swapaxes.default expand.default expand_as.default
repeat.default tile.default flip.default roll.default contiguous.default clone.default
alias.default detach.default slice.Tensor select.int narrow.default index_select.default
gather.default cat.default stack.default broadcast_tensors.default
to.dtype _to_copy.default type_as.default
mean.default mean.dim sum.default sum.dim_IntList prod.default amax.default amin.default
var.correction std.correction var.dim std.dim logsumexp.default cumsum.default
linalg_vector_norm.default norm.ScalarOpt_dim
zeros_like.default ones_like.default full_like.default
new_zeros.default new_ones.default new_full.default tril.default triu.default
""".split()


class ProgramError(ValueError):
    """Raised for a program that is malformed, too large, or computes something else."""


class Cost(NamedTuple):
    """What one call needs.

    Attributes:
        outputs: The shapes of what comes out.
        largest: The bytes of the largest tensor on the way.
        flops: Floating-point operations of products and convolutions.
    """

    outputs: tuple[tuple[int, ...], ...]
    largest: int
    flops: int


def _overload(name: str) -> Callable[..., Any]:
    function, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, function), overload)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
    fast: bool = False,
) -> Tensor:
    """Batch normalisation that never changes the statistics that it is given."""
    if training:
        mean = variance = None
    return torch.batch_norm(x, weight, bias, mean, variance, training, momentum, epsilon, False)


def _dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout at rest."""
    if training:
        raise ProgramError("dropout draws at random")
    return x


def _few(function: Callable[..., Any], parts_of: Callable[..., int]) -> Callable[..., Any]:
    """An operator that returns parts, once their number is known to be small."""

    def bounded(x: Tensor, *arguments: Any) -> Any:  # noqa: ANN401
        if parts_of(x, *arguments) > _MOST_PARTS:
            raise ProgramError(f"more than {_MOST_PARTS} parts")
        return function(x, *arguments)

    return bounded


def _split_parts(x: Tensor, size: int, dim: int = 0) -> int:
    return math.ceil(x.shape[dim] / max(size, 1))


def _whole(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    """Arithmetic of sizes."""

    def checked(a: int, b: int) -> int:
        if type(a) is not int or type(b) is not int:
            raise ProgramError("sizes are whole numbers")
        if abs(result := function(a, b)) > _MOST_INTEGER:
            raise ProgramError(f"a size of {result} is too large")
        return result

    return checked


def _item(values: Sequence[Any], index: int) -> Any:  # noqa: ANN401
    if not isinstance(values, list | tuple) or type(index) is not int:
        raise ProgramError("getitem takes one of several values")
    return values[index]


# Exact overloads: "any operator of ATen" would include those that read files.
OPERATORS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}": _overload(name) for name in _ATEN},
    "aten.batch_norm.default": _batch_norm,
    "aten.dropout.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.chunk.default": _few(torch.chunk, lambda x, chunks, dim=0: chunks),
    "aten.split.Tensor": _few(torch.split, _split_parts),
    "aten.split_with_sizes.default": _few(torch.split, lambda x, sizes, dim=0: len(sizes)),
    "aten.unbind.int": _few(torch.unbind, lambda x, dim=0: x.shape[dim]),
    # In torch's own form, which follows the device that is asked for.
    "aten.zeros.default": torch.zeros,
    "aten.ones.default": torch.ones,
    "aten.full.default": torch.full,
    "aten.scalar_tensor.default": torch.scalar_tensor,
    "aten.arange.default": torch.arange,
    "aten.arange.start": torch.arange,
    "aten.arange.start_step": torch.arange,
    "aten.sym_size.int": lambda x, dim: int(x.shape[dim]),
    "getitem": _item,
    "size.add": _whole(operator.add),
    "size.sub": _whole(operator.sub),
    "size.mul": _whole(operator.mul),
    "size.floordiv": _whole(operator.floordiv),
}


class Program:
    """A network as data, checked and ready to run.

    Args:
        data: The program, as read from JSON; kept as ``data``.

    Raises:
        ProgramError: If it is malformed; the message names the node.
    """

    def __init__(self, data: Any) -> None:  # noqa: ANN401
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ProgramError(f"it is no program of version {VERSION}")
        if set(data) != {"version", "rows", "weights", "nodes", "outputs"}:
            raise ProgramError("its entries are not version, rows, weights, nodes and outputs")
        self.data: dict[str, Any] = data
        rows, weights, nodes, outputs = (data[k] for k in ("rows", "weights", "nodes", "outputs"))
        if rows is not None and not (type(rows) is int and 1 <= rows <= 4_096):
            raise ProgramError("rows must be null or a whole number in 1..4096")
        if not _is_list(weights, _MOST_WEIGHTS) or not all(type(w) is str for w in weights):
            raise ProgramError(f"weights must be at most {_MOST_WEIGHTS} names")
        if not _is_list(nodes, _MOST_NODES):
            raise ProgramError(f"nodes must be a list of at most {_MOST_NODES}")
        self.rows: int | None = rows
        self.weights: tuple[str, ...] = tuple(weights)
        first = 1 + len(weights)
        self._nodes = [_node(node, first + i, f"node {i}") for i, node in enumerate(nodes)]
        known = first + len(nodes)
        if not _is_list(outputs, 16) or not outputs:
            raise ProgramError("outputs must name at least one value")
        if not all(type(n) is int and 0 <= n < known for n in outputs):
            raise ProgramError("an output names a value that is not there")
        self.outputs: tuple[int, ...] = tuple(outputs)
        self._last_use = self._uses()

    def _uses(self) -> dict[int, list[int]]:
        """For each node the values that nobody needs after it."""
        last: dict[int, int] = {}
        for at, (_, args, kwargs) in enumerate(self._nodes):
            for n in (*_references(args), *_references(list(kwargs.values()))):
                last[n] = at
        free: dict[int, list[int]] = {}
        for n, at in last.items():
            if n not in self.outputs:
                free.setdefault(at, []).append(n)
        return free

    def run(
        self,
        x: Tensor,
        weights: Mapping[str, Tensor],
        look: Callable[[Any], None] | None = None,
    ) -> tuple[Tensor, ...]:
        r"""Computes the outputs.

        Args:
            x: The input, with :math:`B` rows.
            weights: Tensors by name.
            look: Called with the result of every node.

        Returns:
            The outputs.

        Raises:
            ProgramError: If a node cannot be computed.
        """
        values: dict[int, Any] = {0: x}
        values.update(enumerate((weights[name] for name in self.weights), 1))
        first = 1 + len(self.weights)
        for at, (name, args, kwargs) in enumerate(self._nodes):
            named = {key: _filled(one, values) for key, one in kwargs.items()}
            result = OPERATORS[name](*_filled(args, values), **named)
            if look is not None:
                look(result)
            values[first + at] = result
            for n in self._last_use.get(at, ()):
                values.pop(n, None)
        return tuple(values[n] for n in self.outputs)

    def cost(self, shape: Sequence[int], weights: Mapping[str, Tensor]) -> Cost:
        r"""What a call with an input of a shape needs, found without allocating it.

        Args:
            shape: The shape of the input, rows first.
            weights: The tensors; only their shapes and types are looked at.

        Raises:
            ProgramError: If the call cannot be made or is too large.
        """
        shapes = {name: weights[name].to("meta") for name in self.weights}
        largest, elements, counter = 0, 0, FlopCounterMode(display=False)

        def look(result: Any) -> None:  # noqa: ANN401
            nonlocal largest, elements
            for one in result if isinstance(result, list | tuple) else [result]:
                if isinstance(one, Tensor):
                    largest = max(largest, one.numel() * one.element_size())
                    elements += one.numel()
            if largest > _MOST_BYTES or elements > _MOST_ELEMENTS:
                raise ProgramError(f"a call with {shape[0]} rows needs too much memory")
            if counter.get_total_flops() > _MOST_FLOPS:
                raise ProgramError(f"a call with {shape[0]} rows takes too much work")

        try:
            with torch.device("meta"), torch.no_grad(), counter:
                outputs = self.run(torch.empty(tuple(shape)), shapes, look)
        except ProgramError:
            raise
        except Exception as error:  # whatever torch says about arguments that don't fit
            raise ProgramError(f"it cannot be computed: {str(error).splitlines()[0][:200]}") from (
                error
            )
        if not all(isinstance(one, Tensor) for one in outputs):
            raise ProgramError("an output is no tensor")
        return Cost(tuple(tuple(one.shape) for one in outputs), largest, counter.get_total_flops())


def relative_difference(one: Tensor, other: Tensor) -> float:
    """How far two tensors of one shape lie apart at most, relative to the size of the first.

    Places where neither is a number agree; where one is not, the difference is infinite.
    """
    agree = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(agree, 0.0, (one - other).abs().double()).nan_to_num(torch.inf, torch.inf)
    finite = one[one.isfinite()].abs()
    return float(gap.max()) / (1 + (float(finite.max()) if len(finite) else 0.0))


def _is_list(value: Any, most: int) -> bool:  # noqa: ANN401
    return isinstance(value, list) and len(value) <= most


def _node(node: Any, place: int, where: str) -> tuple[str, list, dict[str, Any]]:  # noqa: ANN401
    if not _is_list(node, 3) or len(node) != 3:
        raise ProgramError(f"{where} is no triple of operator, arguments and keywords")
    name, args, kwargs = node
    if not isinstance(name, str) or name not in OPERATORS:
        raise ProgramError(f"{where} names {str(name)[:60]!r}, which is not in the list")
    if not _is_list(args, 32) or not isinstance(kwargs, dict) or len(kwargs) > 8:
        raise ProgramError(f"{where} has too many arguments")
    if not all(isinstance(key, str) and key.isidentifier() for key in kwargs):
        raise ProgramError(f"{where} has a keyword that is none")
    for argument in (*args, *kwargs.values()):
        _check(argument, place, where, 0)
    return name, args, kwargs


def _check(argument: Any, place: int, where: str, depth: int) -> None:  # noqa: ANN401
    """Refuses what is no argument."""
    match argument:
        case None | bool():
            return
        case int() if abs(argument) <= _MOST_INTEGER:
            return
        case float() if math.isfinite(argument):
            return
        case str() if argument in STRINGS:
            return
        case {"n": int() as n} if len(argument) == 1 and type(n) is int and 0 <= n < place:
            return
        case {"dtype": str() as name} if len(argument) == 1 and name in DTYPES:
            return
        case list() if depth < _DEEPEST and len(argument) <= _MOST_ARGUMENTS:
            for one in argument:
                _check(one, place, where, depth + 1)
            return
    raise ProgramError(f"{where} has the argument {str(argument)[:60]!r}, which is none")


def _references(argument: Any) -> list[int]:  # noqa: ANN401
    if isinstance(argument, list):
        return [n for one in argument for n in _references(one)]
    return [argument["n"]] if isinstance(argument, dict) and "n" in argument else []


def _filled(argument: Any, values: Mapping[int, Any]) -> Any:  # noqa: ANN401
    """An argument with what it names in its place."""
    if isinstance(argument, list):
        return [_filled(one, values) for one in argument]
    if isinstance(argument, dict):
        return values[argument["n"]] if "n" in argument else DTYPES[argument["dtype"]]
    return argument
