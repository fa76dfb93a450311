"""Scorer: one core for the command line, torchrun, Ray Data and Daft."""

from __future__ import annotations

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CHECKPOINTS
from test_readme import CODE, text_of
from test_score_files import Runs
from test_score_files import folder as many_files

import vae
from vae.cli.main import main
from vae.cli.reading import Reading
from vae.scoring.rows import ScoreRow
from vae.scoring.scorer import FILE_LIMITS, Scorer

ROOT = Path(__file__).parents[1]
MODEL = CHECKPOINTS / "digits-10d"
folder = many_files  # a fixture


@pytest.fixture(scope="module")
def batch(folder: Path) -> dict[str, list]:
    paths = sorted(folder.rglob("*.*"))[::13] + [folder / "0" / "junk.png"]
    contents = [path.read_bytes() for path in paths]
    return {"path": [str(path) for path in paths], "bytes": contents}


@pytest.fixture(scope="module")
def rows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of all files from the command line, by name."""
    out = tmp_path_factory.mktemp("rows") / "rows.parquet"
    assert main(["score", str(MODEL), str(folder), "--out", str(out)]) == 0
    return pq.read_table(out).sort_by("name")


def test_rows_depend_on_the_file_alone(batch, rows: pa.Table, folder: Path) -> None:
    scorer = Scorer(MODEL, root=folder)
    found = pa.table(scorer(batch))
    names = [path.removeprefix(f"{folder}/") for path in batch["path"]]
    assert found["name"].to_pylist() == names
    place = {name: n for n, name in enumerate(rows["name"].to_pylist())}
    assert found.equals(rows.take([place[name] for name in names]))
    assert found["error_code"].to_pylist()[-1] == "E-IMG-03"
    # In a batch of one, on another worker, from the columns of any engine.
    other = pickle.loads(pickle.dumps(scorer))
    assert len(pickle.dumps(scorer)) < 2_000
    for columns in (
        {key: np.array(values, object) for key, values in batch.items()},
        {key: pa.array(values) for key, values in batch.items()},
        pa.table(batch),
    ):
        assert pa.table(other(columns)).equals(found)
    for n in (0, len(names) - 1):
        alone = other({key: values[n : n + 1] for key, values in batch.items()})
        assert pa.table(alone).equals(found.slice(n, 1))


@pytest.mark.parametrize("contents", [[], [b""], [None], [b"junk", b"GIF8"]])
def test_the_schema_is_constant(contents: list) -> None:
    scorer = Scorer(MODEL)
    paths = [f"s3://bucket/{n}.png" for n in range(len(contents))]
    found = pa.table(scorer({"path": paths, "bytes": contents}))
    assert found.schema == scorer.schema and found.column_names == list(ScoreRow._fields)
    assert found["name"].to_pylist() == [path.removeprefix("s3://") for path in paths]
    assert found["elbo"].null_count == len(contents) == len(found["error"].drop_null())
    if contents == [None]:
        assert found["error_code"].to_pylist() == ["E-FILE-01"]


def test_settings_are_those_of_the_command(batch, folder: Path, tmp_path: Path) -> None:
    reading = Reading()
    assert reading.limits == FILE_LIMITS and reading.adaptation == vae.Adaptation()
    words = "--draws 3 --importance-samples 4 --seed 5 --no-evidence --invert yes".split()
    out = tmp_path / "rows.parquet"
    assert main(["score", str(MODEL), batch["path"][0], "--out", str(out), *words]) == 0
    scorer = Scorer(
        MODEL, draws=3, importance_samples=4, seed=5, evidence=False, root=folder / "0",
        adaptation=vae.Adaptation(invert="yes"),
    )  # fmt: skip
    first = {key: values[:1] for key, values in batch.items()}
    assert pa.table(scorer(first)).equals(pq.read_table(out))
    with pytest.raises(ValueError, match="draws must lie in"):
        Scorer(MODEL, draws=0)
    with pytest.raises(TypeError, match="cellar"):
        Scorer(MODEL, cellar=1)
    with pytest.raises(vae.CheckpointError, match="no checkpoint named 'nowhere'"):
        Scorer("nowhere")(first)


def test_a_scorer_of_an_open_model(batch, folder: Path, checkpoint) -> None:
    scorer = Scorer(checkpoint("digits-10d"), root=folder)
    assert scorer.checkpoint is checkpoint("digits-10d")
    first = {key: values[:1] for key, values in batch.items()}
    other = pickle.loads(pickle.dumps(scorer))
    assert pa.table(other(first)).equals(pa.table(scorer(first)))


@pytest.mark.parametrize(("said", "threads"), [("1", 1), (None, 3), ("2", 2), ("9", 3), ("x", 3)])
def test_threads_are_those_of_the_worker(monkeypatch, batch, said, threads) -> None:
    found = []
    monkeypatch.setattr("vae.scoring.scorer.cores", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    Scorer(MODEL)({key: values[:1] for key, values in batch.items()})
    assert found == [threads]


# --- Many machines ----------------------------------------------------------------------------

# Two workers, and cores to spare for reading, however few this machine has.
FIRST = {"ray": "import ray\nray.init(num_cpus=4, include_dashboard=False)\n", "daft": ""}


def examples() -> dict[str, str]:
    """The README's examples by what they import."""
    (section,) = re.findall(
        r"^## Many machines\n(.*?)^## ", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL
    )
    codes = [body for language, body in CODE.findall(section) if language == "python"]
    return {next(name for name in FIRST if f"import {name}\n" in code): code for code in codes}


def test_the_examples_are_short() -> None:
    assert examples().keys() == FIRST.keys()
    assert all(code.count("\n") <= 25 for code in examples().values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", FIRST)
def test_an_engine_finds_the_same_rows(engine: str, folder: Path, rows, tmp_path: Path) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    (tmp_path / "my-files").symlink_to(folder)
    (tmp_path / "driver.py").write_text(FIRST[engine] + examples()[engine])
    done = subprocess.run(
        [sys.executable, "driver.py"], cwd=tmp_path, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0",
             "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    found = pq.read_table(tmp_path / "scores").sort_by("name").cast(rows.schema)
    images = rows.filter(pa.compute.match_substring_regex(rows["name"], r"\.png$"))
    assert found.equals(rows) or found.equals(images)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_workers_and_drivers_lose_no_row(seed, folder: Path, rows, tmp_path: Path) -> None:
    rng, runs, out = random.Random(seed), Runs(), tmp_path / "rows.parquet"
    met = 0
    for _ in range(6):
        out.unlink(missing_ok=True)  # of a run that was sooner done than killed
        pid = runs.start(folder, out, "--workers", "1")
        time.sleep(rng.uniform(0.05, 1.5))
        # A worker first, whose files are then decoded by another one.
        for victim in [*children(pid)[-1:], pid][rng.random() < 0.5 :]:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.3))
        met += runs.code() == -signal.SIGKILL
    runs.start(folder, out, "--workers", "1")
    assert runs.code() == 0, runs.end()
    runs.end()
    assert met and pq.read_table(out).sort_by("name").equals(rows)
    assert list(tmp_path.iterdir()) == [out]


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
