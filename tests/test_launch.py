"""Training as a process of its own: started, stopped, resumed and committed from outside."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vae.cli.train import _parsed
from vae.store.checkpoint import load
from vae.training.presets import PRESETS
from vae.training.run import launch
from vae.training.run.run_folder import RunFolder


def wait(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("digits-2d", {}),
        ("digits-10d", {"latent_dim": 3, "hidden": (8, 9), "learning_rate": 1e-3, "seed": 5}),
        ("sprites-10d", {"objective": "beta", "beta": 4.0, "title": "A title, quoted"}),
        ("digits-10d", {"data": "folder:/my images", "keep_copies_together": True}),
    ],
)
def test_the_command_makes_the_run_it_says(preset: str, changes: dict, tmp_path: Path) -> None:
    config = replace(PRESETS[preset], **changes)
    words = launch.command_of(preset, config, tmp_path / "model")
    typed = shlex.split(launch.shown(words))
    assert typed[:4] == ["python", "-m", "vae", "train"]
    parsed, to = _parsed(typed[4:])
    # A run that departs from a preset does not take its words for people along.
    words_for_people = {"title": parsed.title, "description": parsed.description}
    assert parsed == replace(config, **words_for_people) and to.out == tmp_path / "model"
    assert parsed.title == config.title or changes


@pytest.mark.parametrize("name", ["", "Digits", "a b", "../up", "-x", ".hidden", "x" * 61, "a/b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "A name has 1 to 60" in launch.name_problem(tmp_path, name)


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert launch.name_problem(tmp_path, "mine").startswith("There is a model or a run named mine")
    assert launch.name_problem(tmp_path, "mine-2") == ""


def test_what_is_no_run_cannot_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "..", "nothing"):
        with pytest.raises(KeyError):
            launch.stop(tmp_path, name)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_run_goes_on_alone_and_stops_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = tmp_path / "checkpoints"
    root.mkdir()
    config = replace(
        PRESETS["digits-2d"], hidden=(8,), latent_dim=3, steps=400_000, max_minutes=0.05,
        evaluate_every=20_000, importance_samples=0, draws=1,
    )  # fmt: skip
    launch.start("mine", launch.command_of("digits-2d", config, root / "mine"))
    wait(lambda: launch.runs(root) and launch.runs(root)[0].status.get("step"))
    assert [(run.name, run.running, run.resumable) for run in launch.runs(root)] == [
        ("mine", True, False)
    ]
    launch.stop(root, "mine")
    wait(lambda: launch.runs(root)[0].resumable)
    (run,) = launch.runs(root)
    assert run.status["phase"] == "interrupted" and not run.running
    assert "stopped at step" in launch.last_words("mine")
    reached = run.status["step"]

    launch.resume(root, "mine")
    wait(lambda: (root / "mine" / "manifest.json").exists() and not launch.runs(root))
    model = load(root / "mine")
    assert model.history[-1]["step"] > reached
    assert not RunFolder(root / "mine").path.exists()


def test_a_run_that_cannot_begin_leaves_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    launch.start("mine", ["train", "--data", "folder:/nowhere", "--out", str(tmp_path / "mine")])
    wait(lambda: "There is no folder" in launch.last_words("mine"))
    assert launch.runs(tmp_path) == []
