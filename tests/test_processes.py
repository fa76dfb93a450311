"""Several processes under torchrun: the result of one, and only the leading one writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import manifest_of
from conftest import few_digits

from vae import processes as module
from vae.cli.program import Stop
from vae.processes import ALONE, Processes, joined
from vae.store.checkpoint import load
from vae.training.config import TrainConfig
from vae.training.fit import fit
from vae.training.run.monitor import Watch
from vae.training.state.packing import pack, unpack
from vae.training.state.run_state import RunState

ROOT = Path(__file__).parents[1]
QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=12, batch_size=32, evaluate_every=6, device="cpu",
    warmup_steps=2,
)  # fmt: skip
# Every objective of whole batches, every kind of noise, and a constant refitted on the batch.
RUNS = {
    "elbo": replace(QUICK, input_noise=0.1),
    "iwae": replace(QUICK, objective="iwae", likelihood="bernoulli", binarize="dynamic"),
    "beta_tc": replace(QUICK, objective="beta_tc", beta=6.0, tc_estimator="stratified"),
    "free_bits": replace(QUICK, objective="free_bits", free_bits_over="minibatch"),
    "batch_moment_kl": replace(QUICK, objective="batch_moment_kl", network="resnet",
                               channels=(8,), blocks=1),
    "optimal": replace(QUICK, likelihood="gaussian", gaussian_sigma="optimal",
                       centering="mean"),
}  # fmt: skip
FLAGS = (
    "--steps", "20", "--hidden", "16", "--latent-dim", "3", "--draws", "2", "--quiet",
    "--importance-samples", "2", "--batch-size", "32", "--device", "cpu",
)  # fmt: skip


def main(folder: Path) -> None:
    """What each process runs."""
    from vae.cli.train import _parsed, _train

    with joined("cpu") as processes:
        for name, config in RUNS.items():
            fitted = fit(config, few_digits(), progress=False, processes=processes)
            if processes.leads:
                history = {"history": fitted.history, "processes": fitted.processes}
                (folder / name).write_bytes(pack(fitted.model.state_dict(), history))
        # A run that one process would finish with a stop is agreed upon by all.
        config = replace(QUICK, steps=1_000_000, max_minutes=0.02)
        fitted = fit(config, few_digits(), progress=False, processes=processes)
        if processes.leads:
            (folder / "steps.json").write_text(json.dumps(fitted.steps))
        arguments = _parsed([*FLAGS, "--out", str(folder / "model")])
        _train(*arguments, "torchrun ...", processes)
        interrupted_and_resumed(folder / "cut", processes)


class Stopping(Watch):
    """A watch that asks for an end at step 10, as a signal would."""

    def look(self, state: RunState) -> None:
        super().look(state)
        self._asked = state.step == 10


def interrupted_and_resumed(out: Path, processes: Processes) -> None:
    """The same run as ``FLAGS`` makes, by the program, in two halves."""
    from vae.cli.main import main as command
    from vae.cli.train import _parsed, _train

    words = ["--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae.training.run.monitor.Watch", Stopping)
        config, to = _parsed([*FLAGS, *words])
        with pytest.raises(Stop) as stop:
            _train(config, to, "torchrun ...", processes)
    assert stop.value.code == 0
    if processes.leads:
        (out.parent / "said").write_text(str(stop.value))
    # No process is still at work in the folder when the first one looks for the state.
    torch.distributed.barrier()
    if not processes.leads:
        # As on a machine that doesn't see the leading one's disk.
        words = ["--out", str(out.parent / "elsewhere")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae.processes.joined", lambda device: nullcontext(processes))
        assert command(["train", "--resume", "--quiet", *words]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__, str(folder)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "Warning: " not in done.stderr
    # One process alone prints the result of each of the two commands.
    assert re.findall(r"(\w+): best step", done.stdout) == ["model", "cut"]
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_find_what_one_finds(folder: Path, name: str) -> None:
    weights, facts = unpack((folder / name).read_bytes())
    alone = fit(RUNS[name], few_digits(), progress=False)
    for key, value in alone.model.state_dict().items():
        assert torch.allclose(weights[key], value, atol=2e-4), key
    assert facts["processes"] == 2 and alone.processes == 1
    for mine, theirs in zip(alone.history, facts["history"], strict=True):
        for split in ("train", "validation"):
            for term in ("elbo", "rate", "distortion"):
                assert theirs[split][term] == pytest.approx(mine[split][term], abs=0.02)


def test_two_processes_end_together(folder: Path) -> None:
    assert 0 < json.loads((folder / "steps.json").read_text()) < 1_000_000


def test_the_command_line_under_torchrun(folder: Path, tmp_path: Path) -> None:
    from vae.cli.main import main as command

    found = load(folder / "model")
    assert manifest_of(found.path)["training"]["processes"] == 2
    assert not (folder / "model" / ".run").exists()
    assert command(["train", *FLAGS, "--out", str(tmp_path / "model")]) == 0
    alone = load(tmp_path / "model")
    assert found.card.metrics.elbo == pytest.approx(alone.card.metrics.elbo, abs=1e-2)


def test_two_processes_resume(folder: Path) -> None:
    said = (folder / "said").read_text()
    assert "stopped at step 10 and saved" in said
    assert f"torchrun --nproc-per-node 2 -m vae train --resume --out {folder / 'cut'}" in said
    whole, cut = load(folder / "model"), load(folder / "cut")
    assert manifest_of(cut.path)["training"]["processes"] == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name
    assert not (folder / "cut" / ".run").exists() and not (folder / "elsewhere").exists()


def test_the_command_that_starts_as_many_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ALONE.program == ["python"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Processes(0, 2).program == ["torchrun", "--nproc-per-node", "2"]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    words = "torchrun --nproc-per-node 2 --nnodes 3 --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
    assert Processes(0, 6).program == words.split()


@pytest.mark.parametrize(
    ("cores", "beside", "said", "threads"),
    [(16, 2, "1", 8), (16, 2, None, 8), (2, 2, "1", 1), (1, 2, "1", 1), (16, 2, "3", None)],
)
def test_processes_share_the_cores(monkeypatch, cores, beside, said, threads) -> None:
    found = []
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    module._share_cores()
    assert found == ([threads] if threads else [])


def test_one_process_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes:
        assert processes == ALONE and processes.leads
    value = torch.rand(4)
    assert processes.gather(value) is processes.share(value) is processes.mean(value) is value
    assert processes.largest(3.0) == 3.0 and processes.from_leader(b"x") == b"x"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
