"""Never lose work: resume, kills, faults of the disk, divergence, two trainers on one folder."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import manifest_of, path_of
from conftest import few_digits
from PIL import Image

from vae.store.checkpoint import load
from vae.store.originals import own_data
from vae.training.config import TrainConfig
from vae.training.fit import Diverged, Fitted, fit
from vae.training.run.monitor import Interrupted, StopSignals, Watch
from vae.training.run.run_folder import RunFolder, RunLocked, is_running, process_mark
from vae.training.state.differences import Changed, changes
from vae.training.state.packing import Damaged, pack, unpack
from vae.training.state.run_state import RunState, config_of

ROOT = Path(__file__).parents[1]
QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=24, batch_size=60, evaluate_every=6, warmup_steps=2,
    device="cpu", input_noise=0.1,
)  # fmt: skip
NETWORKS = {
    "mlp": {"likelihood": "bernoulli", "binarize": "dynamic"},
    "conv": {"network": "conv", "channels": (4, 8), "likelihood": "gaussian",
             "gaussian_sigma": "optimal", "centering": "mean"},
}  # fmt: skip


class Stopping(Watch):
    """A watch that asks for an end at a step, as a signal would."""

    at = -1

    def look(self, state: RunState) -> None:
        super().look(state)
        self._asked = state.step == self.at


def watch_of(path: Path, at: int = -1) -> Stopping:
    folder = RunFolder(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    watch = Stopping(folder, progress=False)
    watch.at = at
    return watch


def saved(path: Path) -> tuple[bytes, bytes | None]:
    folder = RunFolder(path)
    return folder.read("state.safetensors"), folder.read("best.safetensors")


def same(one: Fitted, other: Fitted) -> bool:
    mine, theirs = (fitted.model.state_dict() for fitted in (one, other))
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


def without_times(history: list[dict]) -> list[dict]:
    return [{**record, "seconds": 0} for record in history]


# --- Resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 6, 17])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, network: str, cut: int) -> None:
    config = replace(QUICK, **NETWORKS[network])
    whole = fit(config, few_digits(), watch=watch_of(tmp_path / "whole"))
    with pytest.raises(Interrupted) as stop:
        fit(config, few_digits(), watch=watch_of(tmp_path / "cut", cut))
    assert stop.value.step == cut
    rest = fit(
        config, few_digits(), watch=watch_of(tmp_path / "cut"), saved=saved(tmp_path / "cut")
    )
    assert same(whole, rest) and whole.best_step == rest.best_step
    assert without_times(whole.history) == without_times(rest.history)
    # Not the kept weights alone: moments, averages, generator, order, all that is saved.
    (mine, facts), (theirs, other) = (
        unpack(saved(tmp_path / name)[0]) for name in ("whole", "cut")
    )
    assert set(mine) == set(theirs) and len(mine) > 20
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]) or value.isnan().any(), name
    assert facts["step"] == other["step"] == 24
    for name in ("whole", "cut"):
        assert without_times(RunFolder(tmp_path / name).history()) == without_times(rest.history)


def test_a_run_that_was_over_is_only_finished(tmp_path: Path) -> None:
    whole = fit(QUICK, few_digits(), watch=watch_of(tmp_path))
    again = fit(QUICK, few_digits(), watch=watch_of(tmp_path), saved=saved(tmp_path))
    assert same(whole, again) and again.steps == 24 and len(again.history) == 4


def test_best_weights_newer_than_the_state_are_found_again(tmp_path: Path) -> None:
    """A kill between the two files: the best is of an evaluation that the state hasn't seen."""
    whole = fit(QUICK, few_digits(), watch=watch_of(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        fit(QUICK, few_digits(), watch=watch_of(tmp_path / "early", 8))
    with pytest.raises(Interrupted):
        fit(QUICK, few_digits(), watch=watch_of(tmp_path / "late", 19))
    mixed = saved(tmp_path / "early")[0], saved(tmp_path / "late")[1]
    rest = fit(QUICK, few_digits(), progress=False, saved=mixed)
    assert same(whole, rest) and rest.best_step == whole.best_step


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(QUICK, few_digits(), watch=watch_of(tmp_path, 3))
    for change, words in (
        ({"steps": 25}, "steps was 24 and is 25"),
        ({"hidden": (17,)}, r"hidden was \[16\] and is \[17\]"),
        ({"seed": 1, "ema": 0.5}, "ema was 0.995 and is 0.5; seed was 0 and is 1"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(replace(QUICK, **change), few_digits(), progress=False, saved=saved(tmp_path))
    # Words for people may change.
    renamed = replace(QUICK, title="Another", description="Other words.")
    assert fit(renamed, few_digits(), progress=False, saved=saved(tmp_path)).steps == 24
    assert config_of(saved(tmp_path)[0]) == QUICK
    assert changes({"a": 1, "b": (2,)}, {"a": 1, "b": [2]}) == []


def test_every_flipped_bit_of_a_saved_state_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(QUICK, few_digits(), watch=watch_of(tmp_path, 2))
    data, rng = saved(tmp_path)[0], random.Random(0)
    for n in range(200):
        at = rng.randrange(len(data) if n % 2 else 2_000)
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        with pytest.raises(Damaged):
            unpack(bytes(flipped))
    for part in (b"", data[:7], data[:-1], data + b"x"):
        with pytest.raises(Damaged):
            unpack(part)


def test_packing_keeps_every_kind_of_tensor() -> None:
    tensors = {
        "none": torch.empty(0, dtype=torch.long), "one": torch.tensor(2.5),
        "bytes": torch.arange(9, dtype=torch.uint8), "turned": torch.rand(3, 4).T,
    }  # fmt: skip
    found, facts = unpack(pack(tensors, {"a": [1, None, "ü"]}))
    assert facts == {"a": [1, None, "ü"]}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


# --- Divergence and ends ----------------------------------------------------------------------


def test_divergence_leaves_the_last_good_state(tmp_path: Path) -> None:
    class Poison(Watch):
        def look(self, state: RunState) -> None:
            if state.step == 9:
                self.save(state)
            if state.step == 14:
                state.parameters[0].data[0] = float("nan")

    folder = watch_of(tmp_path).folder
    with pytest.raises(Diverged, match="no longer finite at step 15"):
        fit(QUICK, few_digits(), watch=Poison(folder, progress=False))
    tensors, facts = unpack(saved(tmp_path)[0])
    assert facts["step"] == 9
    assert all(value.isfinite().all() for name, value in tensors.items() if name != "losses")
    status = folder.status()
    assert status["phase"] == "diverged" and "--learning-rate" in status["message"]
    assert len(status["last_losses"]) == 15
    assert status["last_losses"][-1] is None and None not in status["last_losses"][:-1]


def test_patience_ends_a_run_that_no_longer_improves() -> None:
    data = few_digits()
    data = replace(data, splits=data.splits._replace(train=data.splits.train[:4]))
    config = replace(
        QUICK, steps=400, batch_size=4, evaluate_every=5, learning_rate=0.02, ema=0.0, patience=2,
        input_noise=0.0,
    )  # fmt: skip
    fitted = fit(config, data, progress=False)
    assert fitted.steps == fitted.best_step + 10 < 400
    assert fitted.history[-1]["step"] == fitted.steps


def test_minutes_end_a_run_with_an_evaluation() -> None:
    fitted = fit(replace(QUICK, steps=10**6, max_minutes=0.02), few_digits(), progress=False)
    assert 0 < fitted.steps < 10**6
    assert fitted.history[-1]["step"] == fitted.steps
    # The cosine followed the clock.
    assert fitted.history[-1]["learning_rate"] < 0.1 * QUICK.learning_rate


def test_a_second_signal_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    with StopSignals() as signals:
        signals.at_once = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


# --- The folder -------------------------------------------------------------------------------


def test_the_status_says_where_a_run_stands(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vae.training.run.monitor._EVERY", 0.0)
    watch = watch_of(tmp_path, 10)
    with pytest.raises(Interrupted):
        fit(QUICK, few_digits(), watch=watch)
    status = watch.folder.status()
    assert status["phase"] == "interrupted" and status["step"] == 10 and status["steps"] == 24
    assert status["pid"] == os.getpid() and status["images_per_second"] > 0
    assert status["elbo"] == pytest.approx(-status["rate"] - status["distortion"])
    assert len(status["kl_per_dim"]) == 3
    assert sum(status["kl_per_dim"]) == pytest.approx(status["rate"])
    assert status["validation"] == watch.folder.history()[-1]["validation"]
    assert status["started"] <= status["updated"] <= time.time() + 1
    assert is_running(status)


def test_a_dead_process_is_not_running() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    status = {"pid": child.pid, "process": process_mark(child.pid)}
    assert is_running(status)
    # The number of a dead process may be another's by now.
    assert not is_running({**status, "process": "1"})
    child.communicate(b"\n")
    assert not is_running(status) and not is_running({}) and not is_running({"pid": "x"})


def test_a_history_cut_short_is_read_up_to_the_cut(tmp_path: Path) -> None:
    folder = watch_of(tmp_path).folder
    assert folder.history() == [] and folder.status() is None
    folder.append_history({"step": 1})
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"step": 2, "valida')
    assert folder.history() == [{"step": 1}]
    folder.replace_history([{"step": 1}])
    folder.append_history({"step": 2})
    assert [record["step"] for record in folder.history()] == [1, 2]


def test_two_trainers_on_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "model")
    with folder.locked():
        with pytest.raises(RunLocked, match=f"pid {os.getpid()}"), folder.locked():
            pass
    # A lock that a dead process left behind holds nobody.
    (folder.path / "lock").write_text("999999")
    with folder.locked():
        assert (folder.path / "lock").read_text() == str(os.getpid())


CALLS = ((io, "open"), (os, "open"), (os, "fsync"), (os, "replace"), (os, "unlink"))


def failing(n: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the n-th filesystem call fail; the list grows with each call."""
    made: list[int] = []
    for home, name in CALLS:
        original = getattr(home, name)

        def call(*args: Any, _original: Callable = original, **options: Any) -> Any:
            made.append(1)
            if len(made) == n:
                act()
            return _original(*args, **options)

        monkeypatch.setattr(home, name, call)
    return made


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_any_failing_call_leaves_the_old_state_or_the_new(
    tmp_path: Path, code: int, monkeypatch
) -> None:
    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    folder, old, new = watch_of(tmp_path).folder, b"old" * 99, b"new" * 99
    folder.write("state.safetensors", old)
    with monkeypatch.context() as patch:
        calls = len(failing(0, refuse, patch)) or failing(0, refuse, patch)
        folder.write("state.safetensors", new)
        total = len(calls)
    assert total >= 5
    outcomes = []
    for n in range(1, total + 1):
        folder.write("state.safetensors", old)
        failed = False
        with monkeypatch.context() as patch:
            failing(n, refuse, patch)
            try:
                folder.write("state.safetensors", new)
            except OSError as error:
                failed = True
                if code == errno.ENOSPC and n <= 2:
                    assert "MB are needed" in str(error) and "MB are free" in str(error)
        found = folder.read("state.safetensors")
        assert found in (old, new)
        outcomes.append((failed, found == new))
        assert not [path for path in folder.path.iterdir() if ".tmp-" in path.name]
    assert (False, False) not in outcomes and outcomes.count((True, False)) >= 3


def test_bytes_that_the_disk_alters_are_noticed(tmp_path: Path, monkeypatch) -> None:
    folder = watch_of(tmp_path).folder
    folder.write("state.safetensors", b"old")
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"otherwise")
    with pytest.raises(OSError, match="reads back otherwise"):
        folder.write("state.safetensors", b"new")
    monkeypatch.undo()
    assert folder.read("state.safetensors") == b"old"


def test_a_run_that_could_not_be_saved_does_not_start(tmp_path: Path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needed and 0\.0 MB are free"):
        fit(QUICK, few_digits(), watch=watch_of(tmp_path))


WRITER = """
import sys
from vae.training.run.run_folder import RunFolder
folder, one, other = RunFolder(sys.argv[1]), bytes(200_000), b"x" * 200_000
print("ready", flush=True)
while True:
    folder.write("state.safetensors", one)
    folder.write("state.safetensors", other)
"""


def kill_writers(path: Path, count: int, seed: int) -> None:
    folder, rng = watch_of(path).folder, random.Random(seed)
    folder.write("state.safetensors", bytes(200_000))
    whole, seen = {bytes(200_000), b"x" * 200_000}, set()
    while count > 0:
        # One interpreter, forked for each kill: the kill counts, not the start.
        forks = min(count, 50)
        code = (
            f"import os, random, signal, time\nrng = random.Random({rng.random()})\n"
            f"for n in range({forks}):\n"
            "    child = os.fork()\n"
            "    if child == 0: break\n"
            "    time.sleep(rng.uniform(0, 0.02)); os.kill(child, signal.SIGKILL)\n"
            "    os.waitpid(child, 0)\n"
            "    data = open(sys.argv[1] + '/.run/state.safetensors', 'rb').read()\n"
            "    print(len(data), sorted(set(data)), flush=True)\n"
            "else: sys.exit()\n"
        )
        script = WRITER.replace('print("ready", flush=True)\n', code)
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr, len(lines)) == (0, "", forks)
        assert set(lines) <= {"200000 [0]", "200000 [120]"}
        seen |= set(lines)
        count -= forks
    assert folder.read("state.safetensors") in whole
    folder.tidy()
    assert [one.name for one in folder.path.iterdir()] == ["state.safetensors"]
    assert len(seen) == 2


def test_fifty_kills_during_saves_tear_nothing(tmp_path: Path) -> None:
    kill_writers(tmp_path, 50, seed=0)


@pytest.mark.slow
def test_a_thousand_kills_during_saves_tear_nothing(tmp_path: Path) -> None:
    kill_writers(tmp_path, 1_000, seed=1)


# --- The program ------------------------------------------------------------------------------

FLAGS = (
    "--steps", "400", "--hidden", "16", "--latent-dim", "3", "--draws", "2", "--quiet",
    "--importance-samples", "2", "--batch-size", "250", "--device", "cpu", "--evaluate-every",
    "100",
)  # fmt: skip


def begin(out: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "vae", "train", *FLAGS, *more, "--out", str(out)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_state(out: Path, child: subprocess.Popen) -> None:
    folder = RunFolder(out)
    for _ in range(3_000):
        if folder.holds_state:
            return
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    raise AssertionError("nothing was saved")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the run that nobody interrupts."""
    from vae.cli.main import main

    out = tmp_path_factory.mktemp("whole") / "model"
    assert main(["train", *FLAGS, "--out", str(out)]) == 0
    assert not (out / ".run").exists()
    return path_of(out).read_bytes()


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_a_run_goes_on_after_a_signal(
    tmp_path: Path, number: int, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    from vae.cli.main import main

    out = tmp_path / "model"
    child = begin(out, "--save-minutes", "0", "--title", "Mine")
    wait_for_state(out, child)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    folder = RunFolder(out)
    assert not is_running(folder.status())
    if number == signal.SIGKILL:
        assert child.returncode == -9
    else:
        assert child.returncode == 128 + number
        found = re.fullmatch(
            r"vae train: stopped at step (\d+) and saved; go on with `python -m vae train "
            r"--resume --out (\S+)`\.\n", said,
        )  # fmt: skip
        assert found and found[2] == str(out)
        assert folder.status()["phase"] == "interrupted"
        assert folder.status()["step"] == int(found[1]) < 400
    assert main(["train", "--resume", "--quiet", "--out", str(out)]) == 0
    assert path_of(out).read_bytes() == whole
    manifest = manifest_of(out)
    # The command that repeats it is the one that began it.
    assert manifest["command"].startswith("python -m vae train --steps 400")
    assert "--resume" not in manifest["command"] and manifest["card"]["title"] == "Mine"
    assert not (out / ".run").exists()
    capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    from vae.cli.main import main

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err.strip()

    return run


@pytest.fixture
def begun(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose run was ended by a stop file at its first evaluation."""
    return stopped(run, monkeypatch, tmp_path / "model", *FLAGS)


def stopped(run, monkeypatch: pytest.MonkeyPatch, out: Path, *flags: str) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr("vae.training.run.monitor._EVERY", 0.0)
        look = Watch.look

        def ask(watch: Watch, state: RunState) -> None:
            if state.step == 100:
                watch.folder.request_stop()
            look(watch, state)

        patch.setattr(Watch, "look", ask)
        code, said = run("train", *flags, "--out", out)
    assert code == 0 and "stopped at step 100 and saved" in said and "--resume" in said
    return out


def test_a_stop_file_ends_a_run_in_order(begun: Path, run, whole: bytes) -> None:
    assert RunFolder(begun).status()["phase"] == "interrupted"
    assert not (begun / "manifest.json").exists()
    code, said = run("train", "--resume", "--quiet", "--out", begun)
    assert (code, said) == (0, "")
    assert path_of(begun).read_bytes() == whole


def test_an_unfinished_run_is_not_replaced_unasked(begun: Path, run, whole: bytes) -> None:
    code, said = run("train", *FLAGS, "--out", begun)
    assert code == 73 and "--resume" in said and "--overwrite" in said
    assert RunFolder(begun).holds_state
    code, said = run("train", *FLAGS, "--overwrite", "--out", begun)
    assert code == 0 and path_of(begun).read_bytes() == whole


def test_a_changed_run_is_refused_on_resume(begun: Path, run) -> None:
    before = saved(begun)
    code, said = run("train", "--resume", "--quiet", "--ema", "0.5", "--out", begun)
    assert code == 2 and "ema was 0.995 and is 0.5" in said
    code, said = run("train", "digits-10d", "--resume", "--quiet", "--out", begun)
    assert code == 2 and "latent_dim was 3 and is 10" in said
    assert saved(begun) == before


def test_a_changed_run_goes_on_by_force_and_says_so(begun: Path, run) -> None:
    flags = ("--resume", "--force", "--out", begun)
    for change, words in (
        (("--hidden", "17"), "hidden was [16] and is [17]"),
        (("--seed", "3"), "seed was 0 and is 3"),
        (("--data", "sprites"), "data was digits and is sprites"),
    ):
        code, said = run("train", "--quiet", *change, *flags)
        assert code == 2 and words in said and "even --force can't" in said
        # No advice that doesn't help.
        code, said = run("train", "--quiet", *change, "--resume", "--out", begun)
        assert code == 2 and words in said and "--force" not in said
    code, said = run("train", "--steps", "200", "--ema", "0.5", *flags)
    changed = ["steps was 400 and is 200", "ema was 0.995 and is 0.5"]
    assert code == 0 and f"Not the run as it was begun: {'; '.join(changed)}" in said
    manifest = manifest_of(begun)
    assert manifest["training"]["steps"] == 200 and manifest["config"]["ema"] == 0.5
    expected = [f"resumed at step 100: {words}" for words in changed]
    assert manifest["training"]["departures"] == expected
    code, said = run("train", *FLAGS, "--force", "--out", begun)
    assert code == 2 and "--force goes with --resume" in said


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 different small grey images."""
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(60):
        photo(tmp_path / "photos" / f"{number:04}.png", generator)
    return tmp_path / "photos"


def photo(path: Path, generator: np.random.Generator) -> None:
    Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)


@pytest.fixture
def begun_on_photos(photos: Path, run, tmp_path: Path, monkeypatch) -> Path:
    flags = ("--data", f"folder:{photos}", "--image-size", "8", "--image-channels", "1", *FLAGS)
    return stopped(run, monkeypatch, tmp_path / "model", *flags)


def add(photos: Path) -> None:
    photo(photos / "000.png", np.random.default_rng(1))


def remove(photos: Path) -> None:
    (photos / "0007.png").unlink()


def reorder(photos: Path) -> None:
    (photos / "0000.png").rename(photos / "9999.png")


def replace_one(photos: Path) -> None:
    photo(photos / "0000.png", np.random.default_rng(1))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (add, "60 then, 61 now"), (remove, "60 then, 59 now"), (reorder, "60 then and now"),
        (replace_one, "60 then and now"),
    ],
)  # fmt: skip
def test_other_images_are_refused_even_by_force(
    photos: Path, begun_on_photos: Path, run, change: Callable, counts: str
) -> None:
    before = saved(begun_on_photos)
    change(photos)
    for flags in ((), ("--force",)):
        code, said = run("train", "--resume", "--quiet", *flags, "--out", begun_on_photos)
        sentence = said.splitlines()[-1]
        assert code == 2 and counts in sentence and "--overwrite" in sentence
        assert sentence.startswith("vae train: the images") and "--force" not in sentence
    assert saved(begun_on_photos) == before


def test_the_same_images_go_on_under_other_names(photos: Path, begun_on_photos, run) -> None:
    for file in sorted(photos.iterdir()):
        file.rename(file.with_name(f"scan-{file.name}"))
    assert run("train", "--resume", "--quiet", "--out", begun_on_photos)[0] == 0
    data = manifest_of(begun_on_photos)["data"]
    assert data["count"] == 60 and len(data["digest"]) == 64
    assert data["duplicates"] == {"validation": 0, "calibration": 0, "test": 0}


def test_a_built_in_set_that_was_replaced_is_refused(tmp_path: Path) -> None:
    data = few_digits()
    with pytest.raises(Interrupted):
        fit(QUICK, data, watch=watch_of(tmp_path, 3))
    state = saved(tmp_path)
    train, validation, calibration = data.splits
    other_split = data.splits._replace(train=np.append(train[1:], calibration[0]))
    for other in (replace(data, digest="0" * 64), replace(data, splits=other_split)):
        with pytest.raises(Changed, match="the images"):
            fit(QUICK, other, progress=False, saved=state, force=True)
    assert fit(QUICK, data, progress=False, saved=state).steps == 24


def test_a_state_that_recorded_no_images_needs_force(begun: Path, run, whole: bytes) -> None:
    tensors, facts = unpack(saved(begun)[0])
    del facts["data"]
    RunFolder(begun).write("state.safetensors", pack(tensors, facts))
    code, said = run("train", "--resume", "--quiet", "--out", begun)
    assert code == 2 and "images were not recorded" in said and "--force" in said
    assert run("train", "--resume", "--quiet", "--force", "--out", begun)[0] == 0
    (departure,) = manifest_of(begun)["training"]["departures"]
    assert "images were not recorded" in departure


def test_copies_across_the_splits_are_said(photos: Path, run, tmp_path: Path) -> None:
    for file in sorted(photos.iterdir()):
        for number in (1, 2):
            shutil.copy(file, file.with_stem(f"{file.stem}-{number}"))
    flags = (
        "train", *FLAGS, "--steps", "2", "--data", f"folder:{photos}", "--image-size", "8",
        "--image-channels", "1",
    )  # fmt: skip
    code, said = run(*flags, "--out", tmp_path / "usual")
    duplicates = manifest_of(tmp_path / "usual")["data"]["duplicates"]
    assert code == 0 and duplicates["calibration"] >= 30
    assert f"{duplicates['calibration']} of 45 calibration images are copies" in said
    assert f"{duplicates['validation']} of 18 validation" in said
    assert "--keep-copies-together" in said
    code, said = run(*flags, "--keep-copies-together", "--out", tmp_path / "together")
    manifest = manifest_of(tmp_path / "together")
    assert code == 0 and "copies" not in said
    assert set(manifest["data"]["duplicates"].values()) == {0}
    # Its images are read again in the splits that it was trained with.
    assert len(own_data(load(tmp_path / "together")).splits.calibration) == 45
    code, said = run("train", *FLAGS, "--keep-copies-together", "--out", tmp_path / "digits")
    assert code == 2 and "only with --data folder:PATH" in said


@pytest.mark.parametrize("lacking", ["locks", "flushing"])
def test_a_network_disk_is_trained_on(run, tmp_path: Path, whole: bytes, monkeypatch, lacking):
    honest = os.fsync

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        honest(descriptor)

    if lacking == "locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        monkeypatch.setattr(os, "fsync", only_files)
    assert run("train", *FLAGS, "--out", tmp_path / "model") == (0, "")
    assert path_of(tmp_path / "model").read_bytes() == whole


def test_another_machine_s_run_is_at_work_while_it_says_so() -> None:
    now = time.time()
    status = {"pid": os.getpid(), "process": "1", "machine": "0123456789ab", "updated": now}
    assert is_running({**status, "phase": "training"})
    assert not is_running({**status, "phase": "training", "updated": now - 3_600})
    assert not is_running({**status, "phase": "interrupted"})


def test_another_version_is_named(begun: Path, run, whole: bytes, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vae.__version__", "9.9")
        code, said = run("train", "--resume", "--quiet", "--out", begun)
        assert code == 2 and "and is 9.9" in said and "--force" in said
    # The same steps by another torch: its last digits, and its user, can't be refused.
    patched = saved(begun)[0]
    tensors, facts = unpack(patched)
    assert facts["torch"] == torch.__version__ and facts["departures"] == []
    older = pack(tensors, {**facts, "torch": "2.0.0"})
    RunFolder(begun).write("state.safetensors", older)
    code, said = run("train", "--resume", "--out", begun)
    assert code == 0 and f"torch was 2.0.0 and is {torch.__version__}" in said
    assert path_of(begun).read_bytes() == whole
    departures = [f"resumed at step 100: torch was 2.0.0 and is {torch.__version__}"]
    assert manifest_of(begun)["training"]["departures"] == departures


def test_a_state_in_another_form_is_one_sentence(begun: Path, run) -> None:
    tensors, facts = unpack(saved(begun)[0])
    tensors = {name: value for name, value in tensors.items() if name != "means.kl"}
    RunFolder(begun).write("state.safetensors", pack(tensors, facts))
    code, said = run("train", "--resume", "--quiet", "--out", begun)
    assert code == 66 and "another version saved it" in said and "--overwrite" in said


def test_resuming_needs_a_sound_state(begun: Path, run, tmp_path: Path) -> None:
    code, said = run("train", "--resume", "--out", tmp_path / "nothing")
    assert code == 66 and "holds no unfinished run" in said
    assert not (tmp_path / "nothing").exists()
    file = RunFolder(begun).path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for flags in ((), FLAGS):
        code, said = run("train", *flags, "--resume", "--quiet", "--out", begun)
        assert code == 66 and "damaged" in said and "--overwrite" in said


def test_a_second_trainer_is_turned_away(begun: Path, run) -> None:
    with RunFolder(begun).locked():
        for flags in (("--resume",), (*FLAGS, "--overwrite")):
            code, said = run("train", *flags, "--out", begun)
            assert code == 73 and f"another process (pid {os.getpid()}) is training" in said
    assert RunFolder(begun).holds_state


def test_a_full_disk_costs_no_work(begun: Path, run, whole: bytes, monkeypatch) -> None:
    before, honest = saved(begun), os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    flags = ("train", "--resume", "--quiet", "--save-minutes", "0", "--out", begun)
    code, said = run(*flags)
    assert code == 74 and "MB are needed" in said and "--resume" in said
    assert saved(begun) == before
    monkeypatch.setattr(os, "fsync", honest)
    assert run(*flags)[0] == 0
    assert path_of(begun).read_bytes() == whole


def test_a_commit_that_fails_is_made_up_for(begun: Path, run, whole: bytes, monkeypatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("vae.store.checkpoint.replace_file", read_only)
        code, said = run("train", "--resume", "--quiet", "--out", begun)
    assert code == 73 and "Read-only file system" in said and "--resume" in said
    assert not (begun / "manifest.json").exists()
    # All steps are taken; only the commit is left to do.
    monkeypatch.setattr("vae.training.fit.train_step", None)
    assert run("train", "--resume", "--quiet", "--out", begun)[0] == 0
    assert path_of(begun).read_bytes() == whole


def test_a_checkpoint_stays_until_the_new_one_is_whole(begun: Path, run, tmp_path: Path) -> None:
    assert run("train", "--resume", "--quiet", "--out", begun)[0] == 0
    before = load(begun).weights_sha256
    flags = (*FLAGS, "--seed", "5", "--overwrite", "--save-minutes", "0")
    child = begin(begun, *flags[len(FLAGS) :])
    wait_for_state(begun, child)
    assert load(begun).weights_sha256 == before
    child.kill()
    child.communicate()
    assert load(begun).weights_sha256 == before
    assert run("train", "--resume", "--quiet", "--out", begun)[0] == 0
    assert load(begun).weights_sha256 != before and load(begun).card.run["seed"] == 5


def test_a_kill_after_the_commit_leaves_a_run_that_ends_at_once(
    begun: Path, run, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "remove", lambda folder: None)
        assert run("train", "--resume", "--quiet", "--out", begun)[0] == 0
    assert RunFolder(begun).holds_state and load(begun)
    monkeypatch.setattr("vae.training.fit.train_step", None)
    assert run("train", "--resume", "--quiet", "--out", begun) == (0, "")
    assert path_of(begun).read_bytes() == whole and not (begun / ".run").exists()


def on_a_gpu(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def on_the_machine(*_: object, **__: object) -> None:
    torch.empty(2**58)


@pytest.mark.parametrize("exhausted", [on_a_gpu, on_the_machine])
def test_too_little_memory_is_one_sentence(run, begun: Path, monkeypatch, exhausted) -> None:
    monkeypatch.setattr("vae.training.fit.train_step", exhausted)
    other = begun.parent / "other"
    code, said = run("train", *FLAGS, "--out", other)
    advice = "vae train: out of memory with batches of 250 images; "
    assert (code, said) == (2, f"{advice}try --batch-size 125.")
    assert RunFolder(other).status()["phase"] == "failed"
    # A run that has been saved needn't start anew, and the advice is one that works.
    code, said = run("train", "--resume", "--quiet", "--out", begun)
    words = f"python -m vae train --resume --out {begun} --force --batch-size 125"
    assert (code, said) == (2, f"{advice}go on with half of them by `{words}`.")
    monkeypatch.undo()
    assert run(*words.split()[3:], "--quiet")[0] == 0
    departures = ["resumed at step 100: batch_size was 250 and is 125"]
    assert manifest_of(begun)["training"]["departures"] == departures


def test_what_is_saved_holds_no_pickle(begun: Path) -> None:
    names = {path.name for path in RunFolder(begun).path.iterdir()}
    assert names == {
        "best.safetensors", "history.jsonl", "lock", "state.safetensors", "status.json", "stop",
    }  # fmt: skip
    _, facts = unpack(saved(begun)[0])
    assert json.dumps(facts) and facts["config"]["seed"] == 0
    assert np.isfinite(facts["best_elbo"])
