"""Processes of one machine take their means through shared memory: exactly, or not at all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vae.training import neighbours as module
from vae.training.neighbours import data_parallel, neighbours_of
from vae.training.processes import Processes, joined

ROOT = Path(__file__).parents[1]
COUNT, ROUNDS, SIZE = 3, 200, 5_000


def values_of(rank: int, turn: int) -> Tensor:
    """What a process brings to a round; fewer elements in some rounds."""
    generator = torch.Generator().manual_seed(1_000 * turn + rank)
    return torch.randn(SIZE - 7 * (turn % 5), generator=generator)


def main(folder: Path) -> None:
    """What each process runs."""
    with joined("cpu") as processes:
        found = {
            "means": means(processes),
            "refused": refused(processes),
            "full": full(processes),
            "gradients": gradients(processes),
            "ended": ended(processes),
        }
        (folder / f"{processes.rank}.json").write_text(json.dumps(found))
        # Who leaves closes gloo's connections, on which the others may still wait.
        deadline = time.monotonic() + 60
        while len([*folder.glob("*.json")]) < COUNT and time.monotonic() < deadline:
            time.sleep(0.05)


def means(processes: Processes) -> dict:
    """Many means, from processes that are early and late by turns."""
    neighbours = neighbours_of(processes, SIZE)
    wrong, sums = 0, []
    dawdle = random.Random(processes.rank)
    for turn in range(ROUNDS):
        mine = values_of(processes.rank, turn)
        if dawdle.random() < 0.2:
            time.sleep(dawdle.choice([1e-4, 3e-3]))
        neighbours.mean_(mine)
        expected = torch.stack([values_of(rank, turn) for rank in range(COUNT)]).mean(0)
        wrong += not torch.allclose(mine, expected, atol=1e-6)
        sums.append(float(mine.double().sum()))
    return {"wrong": wrong, "sums": sums, "left": neighbours.folder.exists()}


def refused(processes: Processes) -> bool:
    """Whether all do without where one can't open the memory."""
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank == 1:
            patch.setattr(torch, "from_file", _refuse)
        return neighbours_of(processes, SIZE) is None


def full(processes: Processes) -> list[bool]:
    """Whether all do without where memory is full, and nothing is left in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _refuse)
        made: list[str] = []
        make = module.tempfile.mkdtemp
        patch.setattr(
            module.tempfile, "mkdtemp", lambda dir: made.append(make(dir=dir)) or made[0]
        )
        nobody = neighbours_of(processes, SIZE) is None
    return [nobody, len(made) == (1 if processes.leads else 0), not any(map(os.path.exists, made))]


def gradients(processes: Processes) -> list[list[float]]:
    """A network's gradient with shared memory, and without."""
    found = []
    for room in (module._MOST_BYTES, 0):
        torch.manual_seed(0)
        network = nn.Linear(6, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_MOST_BYTES", room)
            whole = data_parallel(network, processes)
        x = torch.arange(6.0)[None] + processes.rank
        for _ in range(3):
            network.zero_grad()
            whole(x).square().sum().backward()
        found.append(network.weight.grad.flatten().tolist())
    return found


def ended(processes: Processes) -> str:
    """What the others hear when one of them has ended."""
    neighbours = neighbours_of(processes, SIZE)
    if processes.rank == 2:
        for line in neighbours._lines:
            line.close()
        return ""
    try:
        for _ in range(3):
            neighbours.mean_(torch.zeros(SIZE))
    except RuntimeError as error:
        # Those who still listen learn of it in the same way.
        for line in neighbours._lines:
            line.close()
        return str(error)
    return "nothing"


def _refuse(*_: object, **__: object) -> None:
    raise OSError("no")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("neighbours")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(COUNT),
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__, str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4_000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(COUNT)]


def test_all_get_the_same_mean_to_the_last_bit(found: list[dict]) -> None:
    assert [one["means"]["wrong"] for one in found] == [0] * COUNT
    assert found[0]["means"]["sums"] == found[1]["means"]["sums"] == found[2]["means"]["sums"]


def test_nothing_is_left_where_they_met(found: list[dict]) -> None:
    assert not any(one["means"]["left"] for one in found)


def test_all_do_without_where_one_must(found: list[dict]) -> None:
    assert [one["refused"] for one in found] == [True] * COUNT
    assert [one["full"] for one in found] == [[True] * 3] * COUNT


def test_gradients_are_those_that_are_sent_otherwise(found: list[dict]) -> None:
    shared, sent = found[0]["gradients"]
    assert shared == pytest.approx(sent, rel=1e-6) and any(shared)
    assert all(one["gradients"][0] == shared for one in found)


def test_who_waits_for_one_that_ended_is_told(found: list[dict]) -> None:
    assert [one["ended"] for one in found] == [
        *["another of the processes that train together ended"] * 2, ""
    ]  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
