"""The command line: exit codes, one sentence on standard error, results on standard output."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
from checkpoint_files import manifest_of
from conftest import CHECKPOINTS, Tiny

import vae
from vae.cli.evaluate import metrics_table
from vae.cli.main import main
from vae.data.images.encoding import encode_png, to_image
from vae.figures.frame import error_text
from vae.scoring.rows import FORMATS, ScoreRow
from vae.store.checkpoint import load
from vae.training.presets import PRESETS

ROOT = Path(__file__).parents[1]
QUICK = (
    "--steps", "20", "--hidden", "8", "--latent-dim", "3", "--draws", "2",
    "--importance-samples", "2", "--batch-size", "32", "--device", "cpu",
)  # fmt: skip

COMMANDS = (
    "train", "evaluate", "score", "calibrate", "alarms", "check", "import", "app", "data",
)  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one line on standard error of a run that stopped and printed no result."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("vae")
        return line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs one command in this process; a wrong flag ends it by SystemExit(2), as in argparse."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            assert stop.code in (0, 2)
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "Error(" not in err
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Path:
    """A folder of three reference images and two files that are none."""
    folder = tmp_path_factory.mktemp("images")
    model = checkpoint("digits-2d")
    for i in range(3):
        png = encode_png(to_image(model.reference.levels[i], model.config.image))
        (folder / f"{i}.png").write_bytes(png)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    return folder


# --- All commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(run, flag: str) -> None:
    outcome = run(flag)
    assert outcome.code == 0 and outcome.err == ""
    for command in COMMANDS:
        assert f"\n  {command} " in outcome.out


def test_no_command_is_a_wrong_command(run) -> None:
    assert run().code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(run, command: str) -> None:
    outcome = run(command, "--help")
    assert outcome.code == 0 and outcome.err == ""
    assert f"python -m vae {command}" in outcome.out
    assert "default" in outcome.out


def test_an_unknown_command_names_the_valid(run) -> None:
    outcome = run("trian")
    assert outcome.code == 2
    assert "'trian'" in outcome.sentence() and ", ".join(COMMANDS) in outcome.sentence()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--stepz", "3", "--out", "x"), "--steps"),
        (("train", "--objective", "elbow", "--out", "x"), "batch_moment_kl"),
        (("train", "--steps", "many", "--out", "x"), "--steps"),
        (("train",), "--out"),
        (("evaluate", "digits-2d", "--split", "train"), "calibration"),
        (("evaluate",), "checkpoint"),
        (("score", "digits-2d", "x.png", "--invert", "maybe"), "auto"),
    ],
)
def test_a_wrong_flag_names_the_valid(run, arguments: tuple[str, ...], named: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert named in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "digits-3d", "--out", "x"), ", ".join(PRESETS)),
        (("train", "--steps", "0", "--out", "x"), "steps must be at least 1"),
        (("train", "--beta", "2", "--out", "x"), "--objective beta"),
        (("train", "--data", "mnist5", "--out", "x"), "digits, sprites, mnist, "),
        (("train", "--likelihood", "bernoulli", "--out", "x"), "binarize"),
        (("train", "--network", "conv", "--channels", *"8888", "--out", "x"), "fewer channels"),
        (("evaluate", "digits-2d", "--limit", "0"), "--limit must be at least 1"),
        (("evaluate", "digits-10d", "--draws", "0"), "draws must lie in 1..100000"),
        (("score", "digits-2d"), "at least one image file or folder"),
        (("score", "digits-2d", "IMAGES", "--draws", "0"), "draws must lie in 1..100000"),
        (("score", "digits-10d", "IMAGES", "--seed", str(2**63)), "seed must lie in"),
        (("evaluate", "digits-10d", "--seed", str(-(2**64))), "seed must lie in"),
        (("train", "--seed", str(10**20), "--out", "x"), "seed must lie in"),
        (("score", "digits-2d", "IMAGES", "--out", "x.xlsx"), ".csv, .json, .jsonl, .parquet"),
        (("score", "digits-2d", "IMAGES", "--max-megabytes", "inf"), "--max-megabytes must lie"),
        (("score", "digits-2d", "IMAGES", "--max-megabytes", "nan"), "--max-megabytes must lie"),
        (("score", "digits-2d", "IMAGES", "--max-megabytes", "0"), "--max-megabytes must lie"),
        (("train", "--save-minutes", "-1", "--out", "x"), "--save-minutes must be at least 0"),
        (("train", "--tensorboard", "y", "--out", "x"), "pip install tensorboard"),
        (
            ("train", "--network", "conv", "--channels", "8", "--blocks", "3", "--out", "x"),
            "--network resnet",
        ),
        (("data", "imagenet"), "mnist, fashion_mnist"),
        (("alarms", "digits-2d", "--limit", "0"), "--limit must be at least 1"),
        (("app", "--port", "70000"), "--port must lie in 1..65535"),
    ],
)
def test_a_wrong_value_names_the_valid(
    run, images: Path, tmp_path: Path, monkeypatch, arguments: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*(images if argument == "IMAGES" else argument for argument in arguments))
    assert outcome.code == 2 and named in outcome.sentence()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "score"])
@pytest.mark.parametrize("name", ["digits-3d", "../../etc/passwd", "x" * 5_000, ""])
def test_a_missing_checkpoint_names_those_there_are(run, command: str, name: str) -> None:
    outcome = run(command, name, *(["x.png"] if command == "score" else []))
    assert outcome.code == 66
    assert "There are: " in outcome.sentence() and "digits-10d, digits-2d" in outcome.sentence()


def test_a_damaged_checkpoint_says_why(run, tiny: Tiny, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    for file in tiny.path.iterdir():
        (target / file.name).write_bytes(file.read_bytes()[:-1])
    outcome = run("evaluate", target)
    assert outcome.code == 66 and "E-CKPT-04" in outcome.sentence()


# --- train and evaluate -----------------------------------------------------------------------


def test_a_run_that_cannot_be_locked_leaves_nothing(run, tmp_path, monkeypatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    outcome = run("train", "digits-2d", *QUICK, "--out", tmp_path / "model", "--quiet")
    assert outcome.code == 74 and "Input/output error" in outcome.sentence()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checkpoints") / "mine"
    assert main(["train", *QUICK, "--quiet", "--out", str(out), "--title", "Mine"]) == 0
    return out


def test_training_commits_a_checkpoint(trained: Path) -> None:
    model = load(trained)
    assert model.config.latent_dim == 3 and model.config.hidden == (8,)
    assert model.card.run["steps"] == 20
    assert model.card.title == "Mine"
    command = model.card.command
    assert command.startswith("python -m vae train --steps 20 ") and "--title Mine" in command
    assert model.reference.size == 699
    assert model.history[-1]["step"] == 20


def test_training_reports_on_both_streams(run, tmp_path: Path) -> None:
    outcome = run("train", "digits-10d", *QUICK, "--out", tmp_path / "loud")
    assert outcome.code == 0
    assert "best step 20" in outcome.out and "ELBO" in outcome.out and "nats" in outcome.out
    assert "step" in outcome.err and "nats" in outcome.err
    assert "step/s" not in outcome.out
    quiet = run("train", *QUICK, "--quiet", "--out", tmp_path / "quiet")
    assert (quiet.code, quiet.err) == (0, "")


def test_nothing_is_replaced_unasked(run, trained: Path) -> None:
    before = (trained / "manifest.json").read_bytes()
    outcome = run("train", *QUICK, "--out", trained)
    assert outcome.code == 73 and "exists already" in outcome.sentence()
    assert (trained / "manifest.json").read_bytes() == before


def test_a_folder_of_checkpoints_is_never_replaced(run, trained: Path) -> None:
    outcome = run("train", *QUICK, "--overwrite", "--out", trained.parent)
    assert outcome.code == 73 and "not a checkpoint" in outcome.sentence()
    assert load(trained)


def test_training_onto_a_linked_checkpoint_leaves_nothing_beside(
    run, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").mkdir()
    shutil.copytree(trained, tmp_path / "disk" / "model")
    link = tmp_path / "here" / "mine"
    link.symlink_to(tmp_path / "disk" / "model")
    outcome = run("train", *QUICK, "--quiet", "--overwrite", "--seed", "3", "--out", link)
    assert (outcome.code, outcome.err) == (0, "")
    assert link.is_symlink() and load(link).weights_sha256 != load(trained).weights_sha256
    assert os.listdir(link.parent) == ["mine"] and os.listdir(tmp_path / "disk") == ["model"]
    names = {file.name for file in load(link).card.files.values()}
    assert set(os.listdir(link)) == {".lock", "manifest.json", *names}


@pytest.mark.parametrize("place", ["file/below", "x" * 256])
def test_an_impossible_place_is_found_before_training(
    run, tmp_path: Path, place: str, monkeypatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("vae.training.fit.fit", None)
    outcome = run("train", *QUICK, "--out", tmp_path / place)
    assert outcome.code == 73 and "cannot write" in outcome.sentence()


def test_a_disk_fault_is_its_own_code(run, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vae.store.checkpoint.replace_file", full)
    outcome = run("train", *QUICK, "--quiet", "--out", tmp_path / "mine")
    assert outcome.code == 74 and "No space left on device" in outcome.sentence()
    assert "--resume" in outcome.sentence()
    # No checkpoint, and no work lost: the run stays in its folder.
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {".lock", ".run"}
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_divergence_is_its_own_code(run, tmp_path: Path) -> None:
    flags = ("--learning-rate", "1e12", "--clip", "1e12", "--warmup-steps", "0", "--quiet")
    outcome = run("train", *QUICK, *flags, "--out", tmp_path / "mine")
    assert outcome.code == 3 and "lower --learning-rate" in outcome.sentence()
    # Only what happened is kept, and it stands in nobody's way.
    names = {path.name for path in (tmp_path / "mine/.run").iterdir()}
    assert names == {"history.jsonl", "lock", "status.json"}
    assert run("train", *QUICK, "--quiet", "--out", tmp_path / "mine").code == 0


def test_widths_left_out_are_recorded_as_chosen(run, tmp_path: Path) -> None:
    flags = [word for word in QUICK if word not in ("--hidden", "8")]
    outcome = run(
        "train", *flags, "--network", "resnet", "--quiet", "--out", tmp_path / "mine"
    )  # fmt: skip
    assert outcome.code == 0
    manifest = manifest_of(tmp_path / "mine")
    assert manifest["model"]["channels"] == manifest["config"]["channels"] == [32]
    assert manifest["model"]["hidden"] == manifest["config"]["hidden"] == [256]
    assert manifest["training"]["arithmetic"] == "float32"


def test_curves_for_tensorboard(run, tmp_path: Path, monkeypatch) -> None:
    drawn = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "curves")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            drawn.append((name, step, value))

        def flush(self) -> None:
            pass

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    flags = ("--quiet", "--tensorboard", tmp_path / "curves", "--out", tmp_path / "mine")
    assert run("train", *QUICK, *flags).code == 0
    history = load(tmp_path / "mine").history[-1]
    assert ("elbo/validation", 20, history["validation"]["elbo"]) in drawn
    assert len(drawn) == 6


def test_evaluating_is_one_document(run, trained: Path) -> None:
    flags = ("--draws", "2", "--importance-samples", "2")
    outcome = run("evaluate", trained, *flags, "--json")
    assert outcome.code == 0
    found, stored = json.loads(outcome.out), manifest_of(trained)["metrics"]
    assert found["model"] == "mine" and found["split"] == "validation"
    numbers = {name: value for name, value in stored.items() if name != "split"}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-4)
    assert 0 <= found["mutual_information"] <= found["log_images"] == pytest.approx(math.log(200))
    table = run("evaluate", trained, *flags)
    assert f"{stored['elbo']:.3f}" in table.out and "mine: 200 validation images" in table.out


def test_evaluating_a_part_and_the_other_split(run, trained: Path) -> None:
    flags = ("--draws", "2", "--importance-samples", "0", "--json")
    part = json.loads(run("evaluate", trained, *flags, "--limit", "5").out)
    assert part["images"] == 5 and "iwae_bound" not in part
    other = json.loads(run("evaluate", trained, *flags, "--split", "calibration").out)
    assert other["images"] == 499 and other["split"] == "calibration"


def test_the_table_says_of_how_many_images_log_p_is() -> None:
    metrics = {
        "images": 1_200, "importance_samples": 0, "bits_per_dim": None, "active_units": 2,
        "elbo": -9.0, "elbo_se": 0.1, "log_evidence": -8.0, "log_evidence_se": 0.1,
        "rate": 3.0, "rate_se": 0.1, "distortion": 6.0, "distortion_se": 0.1,
    }  # fmt: skip
    assert "of 1,200 images" not in metrics_table(metrics)
    table = metrics_table({**metrics, "log_evidence_images": 1_190})
    assert "log p(x), exact, 1,190 of 1,200 images" in table


def test_the_mean_of_one_image_has_no_standard_error(run, trained: Path, tmp_path: Path) -> None:
    for model in (trained, "digits-2d"):
        flags = ("evaluate", model, "--limit", "1", "--draws", "2", "--importance-samples", "3")
        metrics = json.loads(run(*flags, "--json").out)
        assert metrics["images"] == 1 and "NaN" not in json.dumps(metrics)
        assert all(metrics[f"{name}_se"] is None for name in ("elbo", "rate", "iwae_bound"))
        outcome = run(*flags)
        assert outcome.code == 0 and "nan" not in (outcome.out + outcome.err).lower()
        (line,) = (one for one in outcome.out.splitlines() if one.strip().startswith("ELBO"))
        assert line.split()[1:] == [f"{metrics['elbo']:.3f}", "nats"]


def test_log_p_of_one_image_has_no_standard_error(run, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    flags = ("--steps", "4", "--hidden", "8", "--importance-samples", "0", "--quiet")
    outcome = run("train", *flags, "--evidence-images", "1", "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    metrics = manifest_of(out)["metrics"]
    assert metrics["log_evidence_images"] == 1 and metrics["log_evidence_se"] is None


def test_the_table_says_when_the_images_are_too_few(run, trained: Path) -> None:
    """Two images cannot tell codes apart beyond log 2, whatever the rate."""
    flags = ("--draws", "2", "--importance-samples", "0")
    outcome = run("evaluate", trained, *flags, "--limit", "2")
    metrics = json.loads(run("evaluate", trained, *flags, "--limit", "2", "--json").out)
    assert metrics["log_images"] == pytest.approx(math.log(2))
    assert metrics["pinned"] == (metrics["rate"] > math.log(2))
    assert ("number of\n  images than about the model" in outcome.out) == metrics["pinned"]
    assert f"{metrics['mutual_information']:.3f}" in outcome.out and "log 2 = 0.693" in outcome.out
    assert metrics["rate"] == pytest.approx(
        metrics["mutual_information"] + metrics["aggregate_kl"]
    )


def test_sprites_have_a_gap_with_their_factors(run, monkeypatch) -> None:
    # The gap itself is tested elsewhere; two images would not show every value of a factor.
    gap = {"mutual_information_gap": 0.25, "factor_gaps": {"x": 0.5, "y": 0.0}}
    monkeypatch.setattr("vae.scoring.evaluation.factor_metrics", lambda *_: gap)
    flags = ("--draws", "1", "--importance-samples", "0", "--limit", "2")
    outcome = run("evaluate", "sprites-10d", *flags)
    assert "0.250 of 1 (x 0.50, y 0.00)" in outcome.out
    assert "mutual_information_gap" not in json.loads(
        run("evaluate", "digits-10d", *flags, "--json").out
    )


# --- score ------------------------------------------------------------------------------------


def test_a_reference_image_gets_its_stored_score(run, images: Path, checkpoint) -> None:
    reference = checkpoint("digits-2d").reference
    outcome = run("score", "digits-2d", *(images / f"{i}.png" for i in range(3)), "--json")
    assert outcome.code == 0 and outcome.err == ""
    rows = json.loads(outcome.out)
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png"]
    for i, row in enumerate(rows):
        assert tuple(row) == ScoreRow._fields
        assert row["elbo"] == pytest.approx(reference.elbo[i], rel=1e-6, abs=1e-4)
        assert row["log_evidence"] == pytest.approx(reference.log_evidence[i], abs=1e-3)
        assert row["model"] == "digits-2d" and row["error"] is None


def test_the_command_line_is_python(run, images: Path, checkpoint) -> None:
    model = checkpoint("digits-10d")
    flags = ("--draws", "9", "--importance-samples", "5", "--seed", "3", "--json")
    rows = json.loads(run("score", CHECKPOINTS / "digits-10d", images / "1.png", *flags).out)
    x = model.config.image.from_levels(model.reference.levels[1:2])
    (row,) = vae.score(model, x, names=["1.png"], draws=9, importance_samples=5, seed=3)
    assert rows == [{**row._asdict(), "kl_per_dim": list(row.kl_per_dim)}]


def test_the_table_shows_an_error_that_holds(run, images: Path) -> None:
    """By quadrature a small one but not none; of draws a standard error; of one draw neither."""
    flags = (images / "0.png", "--no-evidence")
    (row,) = json.loads(run("score", "digits-2d", *flags, "--json").out)
    error = error_text(row["elbo_error"], 4)
    assert error and f"{row['elbo']:.4f}  {error:>8}  " in run("score", "digits-2d", *flags).out
    for draws, shown in (("9", True), ("1", False)):
        outcome = run("score", "digits-10d", *flags, "--draws", draws)
        assert (outcome.code, outcome.err) == (0, "")
        words = outcome.out.splitlines()[1].split()
        assert len(words) == 5 + shown and "nan" not in outcome.out.lower()
        assert float(words[2]) > 0


def test_a_trained_model_scores_its_own_images(run, trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    png = encode_png(to_image(model.reference.levels[0], model.config.image))
    (tmp_path / "digit.png").write_bytes(png)
    outcome = run("score", trained, tmp_path / "digit.png", "--draws", "2", "--json")
    (row,) = json.loads(outcome.out)
    assert row["elbo"] == pytest.approx(model.reference.elbo[0], rel=1e-6, abs=1e-4)


def test_a_refused_file_is_a_row(run, images: Path) -> None:
    outcome = run("score", "digits-2d", images, "--json", "--no-evidence")
    assert outcome.code == 0
    assert outcome.err == "vae score: 2 of 5 images were refused.\n"
    rows = {row["name"]: row for row in json.loads(outcome.out)}
    assert list(rows) == ["0.png", "1.png", "2.png", "empty.png", "text.png"]
    assert rows["empty.png"]["error_code"] == "E-IMG-01"
    assert rows["text.png"]["error_code"] == "E-IMG-03"
    for row in rows.values():
        assert (row["elbo"] is None) == (row["error"] is not None)
    assert run("score", "digits-2d", images, "--strict", "--no-evidence").code == 1
    assert run("score", "digits-2d", images / "0.png", "--strict", "--no-evidence").code == 0


def test_the_table_is_for_people(run, images: Path) -> None:
    lines = run("score", "digits-2d", images, "--no-evidence").out.splitlines()
    assert lines[0].split() == ["name", "ELBO", "±", "KL", "percentile", "p-value"]
    assert len(lines) == 6 and lines[1].startswith("0.png")
    assert "refused: " in lines[4] and "(E-IMG-01)" in lines[4]


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_go_to_a_file(run, images: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"rows{suffix}"
    target.write_text("what stood there before")
    outcome = run("score", "digits-2d", images, "--no-evidence", "--out", target)
    assert outcome.code == 0 and outcome.out == ""
    assert list(tmp_path.iterdir()) == [target]
    if suffix == ".csv":
        with target.open(newline="") as file:
            elbos = [row["elbo"] for row in csv.DictReader(file)]
    elif suffix == ".parquet":
        elbos = pyarrow.parquet.read_table(target)["elbo"].to_pylist()
    elif suffix == ".jsonl":
        elbos = [json.loads(line)["elbo"] for line in target.read_text().splitlines()]
    else:
        elbos = [row["elbo"] for row in json.loads(target.read_text())]
    expected = json.loads(run("score", "digits-2d", images, "--no-evidence", "--json").out)
    assert [float(elbo) if elbo else None for elbo in elbos] == [row["elbo"] for row in expected]


@pytest.mark.parametrize("place", ["nowhere/rows.csv", "folder.csv"])
def test_rows_that_cannot_be_written(run, images: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    outcome = run("score", "digits-2d", images / "0.png", "--out", tmp_path / place)
    assert outcome.code == 73 and "cannot write" in outcome.sentence()
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder.csv"]


@pytest.mark.parametrize("name", ["nowhere.png", "x" * 5_000, "folder"])
def test_a_missing_path_is_named(run, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    outcome = run("score", "digits-2d", tmp_path / name)
    assert outcome.code == 66 and name in outcome.sentence()


def test_any_file_name_is_just_a_name(run, images: Path, tmp_path: Path) -> None:
    png = (images / "0.png").read_bytes()
    names = [b"=1+1.png", b"\xff.png", b"a\nb.png", b"\x1b[31mred.png", "ü 字.png".encode()]
    for name in names:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(png)
    outcome = run("score", "digits-2d", tmp_path, "--no-evidence")
    assert outcome.code == 0 and "\x1b" not in outcome.out
    assert len(outcome.out.splitlines()) == 1 + len(names)
    rows = json.loads(run("score", "digits-2d", tmp_path, "--no-evidence", "--json").out)
    assert {row["name"] for row in rows} >= {"=1+1.png", "a\nb.png", "\ufffd.png", "ü 字.png"}
    for suffix in FORMATS:
        target = tmp_path / f"rows{suffix}"
        assert run("score", "digits-2d", tmp_path, "--no-evidence", "--out", target).code == 0
        assert target.stat().st_size > 0
        target.unlink()


def test_a_folder_is_searched_by_name_or_content_and_a_file_is_taken_at_its_word(
    run, images: Path, tmp_path: Path
) -> None:
    png = (images / "0.png").read_bytes()
    (tmp_path / "inner").mkdir()
    for name in ("inner/B.PNG", "a.png", "notes.txt", "scan"):
        (tmp_path / name).write_bytes(png)
    found = json.loads(run("score", "digits-2d", tmp_path, "--no-evidence", "--json").out)
    assert [row["name"] for row in found] == ["a.png", "inner/B.PNG", "scan"]
    named = run("score", "digits-2d", tmp_path / "scan", "--no-evidence", "--json")
    assert json.loads(named.out)[0]["elbo"] == found[0]["elbo"]


def test_a_large_file_is_refused_unread(run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes((images / "0.png").read_bytes() + bytes(20_000))
    outcome = run(
        "score", "digits-2d", tmp_path / "large.png", "--max-megabytes", "0.01", "--json"
    )
    (row,) = json.loads(outcome.out)
    assert outcome.code == 0 and row["error_code"] == "E-IMG-02"


def test_inverting_is_a_choice(run, images: Path, tmp_path: Path, checkpoint) -> None:
    model = checkpoint("digits-2d")
    picture = 255 - to_image(model.reference.levels[0], model.config.image)
    (tmp_path / "inverted.png").write_bytes(encode_png(picture))
    elbos = {}
    for choice in ("auto", "no", "yes"):
        flags = ("--invert", choice, "--no-evidence", "--json")
        (row,) = json.loads(run("score", "digits-2d", tmp_path / "inverted.png", *flags).out)
        elbos[choice] = row["elbo"]
    # An image of the model's size passes untouched unless asked.
    assert elbos["auto"] == elbos["no"] < elbos["yes"]
    assert elbos["yes"] == pytest.approx(model.reference.elbo[0], abs=1e-4)


def test_proportions_are_a_choice(run, tmp_path: Path, checkpoint) -> None:
    """Squashed, a digit that was drawn out to twice its width is the digit again."""
    model = checkpoint("digits-2d")
    picture = to_image(model.reference.levels[0], model.config.image)
    wide = tmp_path / "wide.png"
    wide.write_bytes(encode_png(np.repeat(picture, 2, axis=1)))
    elbos = {}
    for choice in ("pad", "squash"):
        flags = ("--fit", choice, "--crop", "no", "--invert", "no", "--no-evidence", "--json")
        (row,) = json.loads(run("score", "digits-2d", wide, *flags).out)
        elbos[choice] = row["elbo"]
    assert elbos["pad"] < elbos["squash"]
    assert elbos["squash"] == pytest.approx(model.reference.elbo[0], abs=1.0)


# --- As a program -----------------------------------------------------------------------------


def test_the_program_is_the_function(images: Path, run) -> None:
    command = [sys.executable, "-m", "vae", "score", "digits-2d", str(images / "0.png"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (row,), (mine,) = json.loads(done.stdout), json.loads(run(*command[3:]).out)
    assert row["elbo"] == pytest.approx(mine["elbo"], abs=1e-9)
    assert row["name"] == mine["name"]


def test_a_wrong_word_needs_no_torch() -> None:
    code = (
        "import sys\nfrom vae.cli.main import main\n"
        "code = main(['frobnicate'])\nassert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(images: Path) -> None:
    command = f"'{sys.executable}' -m vae score digits-2d '{images}' --json --no-evidence"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -c 1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "[" and done.returncode == 0
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_scores_need_the_same_numbers_from_any_folder(
    run, images: Path, tmp_path: Path, monkeypatch
) -> None:
    here = run("score", "digits-2d", images / "0.png", "--no-evidence", "--json")
    monkeypatch.chdir(tmp_path)
    there = run("score", "digits-2d", images / "0.png", "--no-evidence", "--json")
    assert np.array_equal(json.loads(here.out), json.loads(there.out))
