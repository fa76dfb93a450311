"""Arithmetic: what is probed, what is taken, and that a failure falls back with one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import few_digits

from vae.model import linear
from vae.training import speed as module
from vae.training.config import TrainConfig
from vae.training.fit import fit
from vae.training.loss import TrainingLoss
from vae.training.speed import Speed, choose_speed, float32_on
from vae.training.state import RunState

ROOT = Path(__file__).parents[1]
QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=30, batch_size=32, evaluate_every=30, device="cpu",
    likelihood="bernoulli", binarize="threshold",
)  # fmt: skip
LONG = replace(QUICK, steps=1_000_000)


def choose(config: TrainConfig) -> tuple[Speed, list[str]]:
    state = RunState(config, few_digits(), torch.device("cpu"))
    lines: list[str] = []
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    kept = state.batches.state()
    found = choose_speed(state, TrainingLoss(state.model, config, 256), lines.append)
    # Probing leaves the run where it was.
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(torch.equal(value, kept[name]) for name, value in state.batches.state().items())
    return found, lines


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether oneDNN pays, wherever these tests run."""
    says = {"pays": False}
    monkeypatch.setattr(module, "onednn_pays", lambda: says["pays"])
    return says


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> dict[Speed, float]:
    """Seconds a step, by arithmetic, instead of measured ones."""
    seconds = {
        Speed(): 2e-3, Speed(True): 1e-3, Speed(False, True): 1.9e-3, Speed(True, True): 0.5e-3
    }  # fmt: skip
    monkeypatch.setattr(module, "_seconds_a_step", lambda state, loss, speed: seconds[speed])
    return seconds


def test_short_runs_stay_reproducible_and_are_not_probed(monkeypatch) -> None:
    monkeypatch.setattr(module, "_seconds_a_step", None)
    assert choose(QUICK) == (Speed(), [])
    assert choose(replace(QUICK, steps=10_000)) == (Speed(), [])


def test_long_runs_take_what_pays(takes: dict[Speed, float]) -> None:
    found, (line,) = choose(LONG)
    assert found == Speed(True, True)
    assert "bfloat16, compiled 4.00" in line and "Taken: bfloat16, compiled" in line
    takes[Speed(True, True)] = 0.95e-3  # less than a tenth faster
    assert choose(LONG)[0] == Speed(True)
    takes[Speed(True)] = 3e-3
    assert choose(LONG)[0] == Speed(True, True)  # it gains only where it is compiled
    takes[Speed(True, True)] = 1.85e-3
    assert choose(LONG)[0] == Speed()


def test_float32_is_multiplied_by_the_faster_library(
    takes: dict[Speed, float], onednn: dict[str, bool]
) -> None:
    onednn["pays"] = True
    assert choose(QUICK) == (Speed(onednn=True), [])
    takes[Speed(onednn=True)] = 1.05e-3  # bfloat16 now gains less than a tenth
    takes[Speed(compiled=True, onednn=True)] = 0.9e-3
    assert choose(LONG)[0] == Speed(True, True)
    takes[Speed(True, True)] = 0.85e-3
    found, (line,) = choose(LONG)
    assert found == Speed(compiled=True, onednn=True)
    assert "Taken: float32 by oneDNN, compiled" in line
    assert choose(replace(QUICK, precision="bfloat16"))[0] == Speed(True)
    assert not float32_on(torch.device("cuda")).onednn


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_the_faster_library_trains_and_leaves_a_usual_model(onednn: dict[str, bool]) -> None:
    config = replace(QUICK, steps=60, evaluate_every=60)
    usual = fit(config, few_digits(), progress=False)
    onednn["pays"] = True
    other = fit(config, few_digits(), progress=False)
    assert (usual.speed, other.speed) == ("float32", "float32 by oneDNN")
    elbos = [run.history[-1]["validation"]["elbo"] for run in (usual, other)]
    assert elbos[1] == pytest.approx(elbos[0], abs=0.01)
    assert not any(getattr(layer, "by_onednn", False) for layer in other.model.modules())


def test_few_levels_are_named_by_few_bits(takes: dict[Speed, float]) -> None:
    grey = replace(LONG, likelihood="discretized_logistic", binarize="none")
    takes[Speed(False, True)] = 1e-3
    assert choose(grey)[0] == Speed(False, True)
    assert choose(replace(grey, precision="bfloat16"))[0] == Speed(True, True)


def test_a_run_of_minutes_is_not_worth_compiling(takes: dict[Speed, float]) -> None:
    assert choose(replace(LONG, max_minutes=1.0))[0] == Speed(True)
    assert choose(replace(LONG, steps=20_000))[0] == Speed(True)


def test_what_is_asked_for_is_taken(takes: dict[Speed, float]) -> None:
    assert choose(replace(LONG, precision="float32", compile="off")) == (Speed(), [])
    assert choose(replace(QUICK, precision="bfloat16"))[0] == Speed(True)
    assert choose(replace(QUICK, compile="on"))[0] == Speed(False, True)


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    found, lines = choose(replace(QUICK, compile="on"))
    assert found == Speed()
    assert lines == [
        "float32, compiled is not possible here and left out (No working C++ compiler found)"
    ]


def test_without_bfloat16_float32_may_still_be_compiled(
    takes: dict[Speed, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes[Speed(compiled=True)] = 1e-3
    timed = module._seconds_a_step

    def refuse(state: RunState, loss: TrainingLoss, speed: Speed) -> float:
        if speed.bfloat16:
            raise RuntimeError("no such numbers here")
        return timed(state, loss, speed)

    monkeypatch.setattr(module, "_seconds_a_step", refuse)
    for precision in ("auto", "bfloat16"):
        found, lines = choose(replace(LONG, precision=precision))
        assert found == Speed(compiled=True)
        assert lines[0] == "bfloat16 is not possible here and left out (no such numbers here)"


def test_bfloat16_trains() -> None:
    config = replace(QUICK, steps=60, evaluate_every=60)
    plain = fit(config, few_digits(), progress=False)
    narrow = fit(replace(config, precision="bfloat16"), few_digits(), progress=False)
    assert (plain.speed, narrow.speed) == ("float32", "bfloat16")
    elbos = [run.history[-1]["validation"]["elbo"] for run in (plain, narrow)]
    assert elbos[1] == pytest.approx(elbos[0], abs=0.5) and elbos[0] != elbos[1]
    for value in narrow.model.state_dict().values():
        assert value.dtype == torch.float32


def test_each_arithmetic_is_really_timed() -> None:
    state = RunState(QUICK, few_digits(), torch.device("cpu"))
    loss = TrainingLoss(state.model, QUICK, 256)
    for speed in (Speed(), Speed(onednn=True), Speed(bfloat16=True)):
        assert 0 < module._seconds_a_step(state, loss, speed) < 60


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
    for speed in (Speed(compiled=True), Speed(compiled=True, onednn=True)):
        for one, other in zip(plain, speed.ready(loss)(*batch, setting), strict=True):
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
    expected = Speed(compiled=works, onednn=linear.onednn_pays())
    assert manifest["training"]["arithmetic"] == expected.name
    assert ("not possible here" in done.stderr) != works
