"""A network as data: what it computes, and that nothing in its file can do more than compute."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from typing import Any

import pytest
import torch

from vae.model.program import OPERATORS, STRINGS, Program, ProgramError

# x (R, 4) -> tanh(x w + b), and the halves of that.
GOOD: dict[str, Any] = {
    "version": 1,
    "rows": None,
    "weights": ["w", "b"],
    "nodes": [
        ["aten.linear.default", [{"n": 0}, {"n": 1}, {"n": 2}], {}],
        ["aten.tanh.default", [{"n": 3}], {}],
        ["aten.chunk.default", [{"n": 4}, 2, -1], {}],
        ["getitem", [{"n": 5}, 0], {}],
        ["getitem", [{"n": 5}, 1], {}],
        ["aten.sym_size.int", [{"n": 0}, 0], {}],
        ["size.mul", [{"n": 8}, 2], {}],
        ["aten.reshape.default", [{"n": 4}, [{"n": 9}, 3]], {}],
        ["aten.full_like.default", [{"n": 7}, 0.5], {"dtype": {"dtype": "float32"}}],
        ["aten.mul.Tensor", [{"n": 7}, {"n": 11}], {}],
    ],
    "outputs": [6, 12, 10],
}
TENSORS = {"w": torch.linspace(-1, 1, 24).view(6, 4), "b": torch.zeros(6)}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The program with one place of it changed."""
    program = copy.deepcopy(GOOD)
    place: Any = program
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return program


def test_it_computes_and_says_what_it_costs() -> None:
    program, x = Program(json.loads(json.dumps(GOOD))), torch.rand(5, 4)
    first, second, folded = program.run(x, TENSORS)
    h = torch.tanh(torch.nn.functional.linear(x, TENSORS["w"], TENSORS["b"]))
    assert torch.equal(first, h[:, :3]) and torch.equal(second, h[:, 3:] / 2)
    assert torch.equal(folded, h.reshape(10, 3))
    cost = program.cost((5, 4), TENSORS)
    assert cost.outputs == ((5, 3), (5, 3), (10, 3))
    assert (cost.flops, cost.largest) == (2 * 5 * 4 * 6, 4 * 5 * 6)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ([], "no program"),
        (changed("version", to=2), "no program of version 1"),
        ({**GOOD, "more": 1}, "entries"),
        (changed("rows", to=0), "rows"),
        (changed("rows", to=True), "rows"),
        (changed("weights", 0, to=5), "weights"),
        (changed("nodes", to=GOOD["nodes"] * 501), "nodes"),
        (changed("nodes", 0, to=["aten.linear.default", []]), "triple"),
        (changed("nodes", 0, 0, to="aten.from_file.default"), "not in the list"),
        (changed("nodes", 0, 0, to="aten.load.default"), "not in the list"),
        (changed("nodes", 0, 0, to="__import__"), "not in the list"),
        (changed("nodes", 0, 0, to=["aten.linear.default"]), "not in the list"),
        (changed("nodes", 0, 1, 0, to={"n": 3}), "none"),  # itself
        (changed("nodes", 0, 1, 0, to={"n": -1}), "none"),
        (changed("nodes", 0, 1, 0, to={"n": True}), "none"),
        (changed("nodes", 0, 1, 0, to={"n": 0, "m": 1}), "none"),
        (changed("nodes", 0, 1, 0, to={"dtype": "complex64"}), "none"),
        (changed("nodes", 0, 1, 0, to="/etc/passwd"), "none"),
        (changed("nodes", 0, 1, 0, to=2**40), "none"),
        (changed("nodes", 0, 1, 0, to=float("nan")), "none"),
        (changed("nodes", 0, 1, 0, to=[[[[[[1]]]]]]), "none"),
        (changed("nodes", 0, 1, to=[1] * 33), "too many"),
        (changed("nodes", 0, 2, to={"a b": 1}), "keyword"),
        (changed("outputs", to=[]), "outputs"),
        (changed("outputs", to=[99]), "not there"),
    ],
)
def test_a_malformed_program_is_refused(program: Any, said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        Program(program)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (["aten.expand.default", [{"n": 10}, [2**31, 10, 3]], {}], "memory"),
        (["aten.full.default", [[2**31, 2**20], 1.0], {}], "memory|computed"),
        (["aten.repeat.default", [{"n": 10}, [2**20, 2**10]], {}], "memory"),
        (["aten.chunk.default", [{"n": 11}, 2**30, 0], {}], "parts"),
        (["aten.linear.default", [{"n": 10}, {"n": 1}], {}], "computed"),
        (["aten.reshape.default", [{"n": 10}, [7, 7]], {}], "computed"),
        (["aten.dropout.default", [{"n": 4}, 0.5, True], {}], "random"),
        (["size.mul", [2**31, 4], {}], "too large"),
        (["getitem", [{"n": 4}, 0], {}], "several"),
        (["aten.tanh.default", [3], {}], "computed"),
        (["aten.full.default", [[16384, 16384], 1.0], {}], None),
    ],
)
def test_a_program_that_asks_for_the_machine_is_refused_before_it_runs(
    node: list, said: str | None
) -> None:
    program = copy.deepcopy(GOOD)
    program["nodes"].append(node)
    program["outputs"] = [len(program["nodes"]) + 2]
    tracemalloc.start()
    if said is None:
        assert Program(program).cost((5, 4), TENSORS).outputs == ((16384, 16384),)
    else:
        with pytest.raises(ProgramError, match=said):
            Program(program).cost((5, 4), TENSORS)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_batch_norm_never_changes_what_it_is_given() -> None:
    mean, variance = torch.zeros(4), torch.ones(4)
    x = torch.rand(5, 4)
    run = OPERATORS["aten.batch_norm.default"]
    by_batch = run(x, None, None, mean, variance, True, 0.1, 1e-5, True)
    assert torch.equal(mean, torch.zeros(4)) and torch.equal(variance, torch.ones(4))
    assert by_batch.mean(0).abs().max() < 1e-5


def _mutated(generator: random.Random) -> Any:
    """The program with a few random changes."""
    program = copy.deepcopy(GOOD)
    values = [
        0, 1, -1, 3, 2**31, -(2**31), 0.5, 1e308, None, True, "tanh", generator.choice(STRINGS),
        [], [1, 2], [[{"n": 4}]], {"n": generator.randrange(14)}, {"dtype": "int64"}, "x" * 500,
        {}, {"n": 0}, [2**20] * 3, [{"n": 4}, {"n": 4}],
    ]  # fmt: skip
    for _ in range(generator.randint(1, 4)):
        nodes = program["nodes"]
        node = generator.choice(nodes)
        match generator.randrange(7):
            case 0:
                node[0] = generator.choice([*OPERATORS])
            case 1 if node[1]:
                node[1][generator.randrange(len(node[1]))] = generator.choice(values)
            case 2:
                node[1].append(generator.choice(values))
            case 3:
                node[2][generator.choice(["dim", "alpha", "dtype", "keepdim", "size"])] = (
                    generator.choice(values)
                )
            case 4:
                nodes.insert(generator.randrange(len(nodes)), copy.deepcopy(node))
            case 5 if len(nodes) > 1:
                nodes.remove(node)
            case 6:
                program[generator.choice([*program])] = generator.choice(values)
                break
    return program


def _survives(seed: int) -> bool:
    """Whether a mutated program opens; if so it also runs, or says why it does not."""
    program = _mutated(random.Random(seed))
    try:
        opened = Program(program)
        cost = opened.cost((3, 4), TENSORS)
    except ProgramError:
        return False
    if cost.largest < 2**24:
        try:
            opened.run(torch.rand(3, 4), TENSORS)
        except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
            return False
    return True


def test_mutated_programs_are_refused_or_run() -> None:
    assert 0 < sum(_survives(seed) for seed in range(300)) < 300


@pytest.mark.slow
def test_many_mutated_programs_are_refused_or_run() -> None:
    assert 0 < sum(_survives(seed) for seed in range(300, 10_300)) < 10_000
