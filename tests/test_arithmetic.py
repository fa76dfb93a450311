"""Arithmetic: what a run asks for, and that a failure falls back with one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import few_digits

from vae.training.arithmetic import Arithmetic, arithmetic_of, compiled
from vae.training.config import TrainConfig
from vae.training.fit import fit
from vae.training.loss.training_loss import TrainingLoss
from vae.training.state.run_state import RunState

ROOT = Path(__file__).parents[1]
QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=30, batch_size=32, evaluate_every=30, device="cpu",
    likelihood="bernoulli", binarize="threshold",
)  # fmt: skip


def test_auto_is_a_rule_that_one_can_read(monkeypatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert arithmetic_of(QUICK, cpu) == Arithmetic()
    assert arithmetic_of(replace(QUICK, precision="bfloat16", compile="on"), cpu) == (True, True)
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert arithmetic_of(QUICK, gpu).bfloat16 == has
        assert not arithmetic_of(replace(QUICK, precision="float32"), gpu).bfloat16


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    state = RunState(QUICK, few_digits(), torch.device("cpu"))
    loss, lines = TrainingLoss(state.model, QUICK, 256), []
    kept = state.batches.state()
    assert compiled(state, loss, Arithmetic(True, True), lines.append) == (loss, (True, False))
    assert lines == [
        "bfloat16, compiled is not possible here and left out (No working C++ compiler found)"
    ]
    # The run stands where it stood.
    assert all(torch.equal(value, kept[name]) for name, value in state.batches.state().items())


def test_bfloat16_trains() -> None:
    config = replace(QUICK, steps=60, evaluate_every=60)
    plain = fit(config, few_digits(), progress=False)
    narrow = fit(replace(config, precision="bfloat16"), few_digits(), progress=False)
    assert (plain.arithmetic, narrow.arithmetic) == ("float32", "bfloat16")
    elbos = [run.history[-1]["validation"]["elbo"] for run in (plain, narrow)]
    assert elbos[1] == pytest.approx(elbos[0], abs=0.5) and elbos[0] != elbos[1]
    for value in narrow.model.state_dict().values():
        assert value.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["elbo", "iwae", "beta_tc", "free_bits", "capacity"])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_a_translated_step_is_the_same_step(network: str, objective: str) -> None:
    config = replace(QUICK, network=network, objective=objective)
    state = RunState(config, few_digits(), torch.device("cpu"))
    loss = TrainingLoss(state.model, config, 256)
    batch = state.batches.draw()
    setting = torch.tensor(3.0) if loss.scheduled else None
    plain = loss(*batch, setting)
    translated, found = compiled(state, loss, Arithmetic(compiled=True), print)
    assert found.compiled
    for one, other in zip(plain, translated(*batch, setting), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["c++", "/nowhere/c++"])
def test_the_program_with_and_without_a_compiler(tmp_path: Path, compiler: str) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "vae", "train", "--compile", "on", "--steps", "20", "--hidden", "8",
         "--draws", "2", "--importance-samples", "2", "--latent-dim", "3", "--out",
         str(tmp_path / "model")],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    works = compiler == "c++"
    expected = Arithmetic(compiled=works)
    assert manifest["training"]["arithmetic"] == expected.name
    assert ("not possible here" in done.stderr) != works
