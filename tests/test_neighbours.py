"""Processes of one machine share memory and the update: exactly, or not at all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import few_digits

from vae.training import neighbours as module
from vae.training.config import TrainConfig
from vae.training.fit import fit
from vae.training.neighbours import neighbours_of, room_for
from vae.training.processes import Processes, joined
from vae.training.shared_update import owners_of
from vae.training.state import RunState
from vae.training.watch import Watch

ROOT = Path(__file__).parents[1]
COUNT, ROUNDS, SIZE = 3, 200, 5_000
CONFIG = TrainConfig(
    hidden=(16,), latent_dim=3, steps=25, batch_size=33, evaluate_every=10, device="cpu",
    warmup_steps=2, clip=1.0,
)  # fmt: skip


def main(folder: Path) -> None:
    """What each process runs."""
    with joined("cpu") as processes:
        found = {
            "meetings": meetings(processes),
            "refused": refused(processes),
            "full": full(processes),
            "weights": weights(processes),
            "left": left(processes),
            "ended": ended(processes),
        }
        (folder / f"{processes.rank}.json").write_text(json.dumps(found))
        # Who leaves closes gloo's connections, on which the others may still wait.
        deadline = time.monotonic() + 60
        while len([*folder.glob("*.json")]) < COUNT and time.monotonic() < deadline:
            time.sleep(0.05)


def meetings(processes: Processes) -> dict:
    """Many meetings of processes that are early and late by turns, each of which writes."""
    neighbours = neighbours_of(processes, 2 * room_for((COUNT, SIZE)))
    # Two, so that nobody writes where another may still read.
    places = [neighbours.place((COUNT, SIZE)) for _ in range(2)]
    wrong = int(bool(places[0].any()) or bool(places[1].any()))
    neighbours.meet()
    dawdle = random.Random(processes.rank)
    for turn in range(ROUNDS):
        place = places[turn % 2]
        place[processes.rank] = 1_000 * turn + processes.rank
        if dawdle.random() < 0.2:
            time.sleep(dawdle.choice([1e-4, 3e-3]))
        neighbours.meet()
        expected = 1_000 * turn + torch.arange(float(COUNT))
        wrong += not torch.equal(place, expected[:, None].expand(COUNT, SIZE))
        wrong += not torch.equal(neighbours.each(turn - processes.rank), turn - torch.arange(3.0))
    return {"wrong": wrong, "left": neighbours.folder.exists()}


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


def weights(processes: Processes) -> list[list[float]]:
    """What a run ends with: with shared memory, without, and with clipping that does nothing."""
    found = []
    for room, clip in ((module._MOST_BYTES, 1.0), (0, 1.0), (module._MOST_BYTES, 1e9)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_MOST_BYTES", room)
            fitted = fit(replace(CONFIG, clip=clip), few_digits(), False, processes=processes)
        found.append(torch.cat([one.flatten() for one in fitted.model.parameters()])[::7].tolist())
    return found


class Failing(Watch):
    """A watch whose disk is full at step 10."""

    def look(self, state: RunState) -> None:
        if state.step == 10:
            raise OSError("no room")


def left(processes: Processes) -> str:
    """What each hears of a run that only the leading process fails to go on with."""
    try:
        fit(CONFIG, few_digits(), watch=Failing(progress=False), processes=processes)
    except (OSError, RuntimeError) as error:
        return str(error)
    return "nothing"


def ended(processes: Processes) -> str:
    """What the others hear when one of them has ended."""
    neighbours = neighbours_of(processes, SIZE)
    try:
        for _ in range(3):
            if processes.rank == 2:
                return ""
            neighbours.meet()
    except RuntimeError as error:
        return str(error)
    finally:
        # Those who still listen learn of it in the same way.
        neighbours.close()
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


def test_what_one_wrote_is_read_by_all_after_they_met(found: list[dict]) -> None:
    assert [one["meetings"]["wrong"] for one in found] == [0] * COUNT


def test_nothing_is_left_where_they_met(found: list[dict]) -> None:
    assert not any(one["meetings"]["left"] for one in found)


def test_all_do_without_where_one_must(found: list[dict]) -> None:
    assert [one["refused"] for one in found] == [True] * COUNT
    assert [one["full"] for one in found] == [[True] * 3] * COUNT


def test_a_shared_update_is_the_update(found: list[dict]) -> None:
    shared, sent, unclipped = found[0]["weights"]
    assert shared == pytest.approx(sent, abs=2e-6)
    # The gradient was long enough for the norm of all parts to matter.
    assert unclipped != pytest.approx(sent, abs=1e-5)


def test_who_leaves_a_run_lets_nobody_wait(found: list[dict]) -> None:
    assert [one["left"] for one in found] == [
        "no room", *["another of the processes that train together ended"] * 2
    ]  # fmt: skip


def test_who_waits_for_one_that_ended_is_told(found: list[dict]) -> None:
    assert [one["ended"] for one in found] == [
        *["another of the processes that train together ended"] * 2, ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "count", "owners"),
    [([5, 4, 3], 1, [0, 0, 0]), ([3, 4, 6, 1], 2, [1, 1, 0, 0]), ([2], 3, [0]), ([], 2, [])],
)
def test_each_weight_has_one_owner(sizes: list[int], count: int, owners: list[int]) -> None:
    assert owners_of(sizes, count) == owners


@pytest.mark.parametrize("count", [2, 3, 4])
def test_owners_have_about_the_same_work(count: int) -> None:
    sizes = [9_216, 32, 9_216, 32, 65_536, 256, 40_960, 10, 2_560, 256, 65_536, 512, 9_216, 1]
    loads = [0] * count
    for size, owner in zip(sizes, owners_of(sizes, count), strict=True):
        loads[owner] += size
    # No more than the largest apart: whoever got it had the least until then.
    assert max(loads) - min(loads) <= max(sizes)
    assert sum(loads) == sum(sizes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
