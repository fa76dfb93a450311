"""``make bench NAME=many_machines``: folders through the command line, torchrun, Ray and Daft."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

TEXT = "Folders through the command line, torchrun, Ray Data and Daft: rates, and the same rows."

_NOTE = (
    " Each scores a tenth of the files and then all of them: the rate is of the difference, so"
    " that starting up is left out. Ray and Daft use two workers, where they are installed."
)
ROOT = Path(__file__).parents[2]
_SCORE = ["-m", "vae", "score"]
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Words of Python: what starts an engine, given a folder, where to, a model and settings.
ENGINES = {
    "command line": _SCORE,
    "torchrun": [*_TORCHRUN, *_SCORE],
    "ray": ["-m", "bench.many_machines", "ray"],
    "daft": ["-m", "bench.many_machines", "daft"],
}


@dataclass(frozen=True)
class _Arguments:
    """How much to measure.

    Args:
        files: PNG files of 28×28, scored by mnist-burda.
        photographs: JPEG files of 256×256, scored by sprites-10d.
        draws: Draws an image.
    """

    files: int = 20_000
    photographs: int = 2_000
    draws: int = 1


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    flags = tyro.cli(
        _Arguments, prog="bench many_machines", description=TEXT + _NOTE, args=arguments
    )
    if min(flags.files, flags.photographs) < 20 or flags.draws < 1:
        sys.exit("--files and --photographs take at least 20, --draws at least 1.")
    from vae.data.images.many import cores

    print(f"{cores()} cores; images a second, start-up left out")
    with tempfile.TemporaryDirectory(prefix="elboscope-bench-") as temporary:
        home = Path(temporary)
        for kind, count, model, make in (
            ("PNG files of 28×28", flags.files, "mnist-burda", _make_small),
            ("JPEG files of 256×256", flags.photographs, "sprites-10d", _make_photographs),
        ):
            folder = home / model
            for start in (0, count // 10):
                make(folder / f"{start}", start, count // 10 if start == 0 else count)
            print(f"\n{count} {kind}, {model}, {flags.draws} draw(s)")
            _compare(folder, count, model, flags.draws)


def _compare(folder: Path, count: int, model: str, draws: int) -> None:
    import pyarrow.parquet as pq

    first = None
    for name, words in ENGINES.items():
        if name in ("ray", "daft") and importlib.util.find_spec(name) is None:
            print(f"  {name:<14} is not installed")
            continue
        out = folder.parent / f"{model}-{name}.parquet"
        seconds = []
        for files in (folder / "0", folder):
            start = time.perf_counter()
            _call([*words, model, str(files), "--out", str(out), "--draws", str(draws)])
            seconds.append(time.perf_counter() - start)
        rate = (count - count // 10) / (seconds[1] - seconds[0])
        rows = pq.read_table(out).sort_by("name")
        first = rows if first is None else first
        same = "the same rows" if rows.cast(first.schema).equals(first) else "OTHER ROWS"
        print(f"  {name:<14}{rate:>10.0f}   {rows.num_rows} rows, {same}")


def _call(words: list[str]) -> None:
    variables = {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, **variables}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-3_000:]}")


def _make_small(folder: Path, start: int, end: int) -> None:
    """Small PNG files of scribbles."""
    from vae.data.images.encoding import encode_png

    folder.mkdir(parents=True)
    for number in range(start, end):
        pixels = np.zeros((28, 28), np.uint8)
        rng = np.random.default_rng(number)
        row, column = rng.integers(4, 12, 2)
        pixels[row : row + 12, column : column + 8] = rng.integers(0, 256, (12, 8))
        (folder / f"{number:07d}.png").write_bytes(encode_png(pixels))


def _make_photographs(folder: Path, start: int, end: int) -> None:
    """Colour JPEG files with the detail of photographs."""
    folder.mkdir(parents=True)
    for number in range(start, end):
        coarse = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:07d}.jpg", quality=90)


# --- In a process of an engine ----------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What an engine is to score."""

    engine: tyro.conf.Positional[str]
    model: tyro.conf.Positional[str]
    folder: tyro.conf.Positional[str]
    out: str
    draws: int


def _on_ray(work: _Work, folder: str) -> None:
    import ray

    import vae

    # A core more than there are is for reading.
    ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR")
    ray.data.read_binary_files(work.folder, include_paths=True).map_batches(
        vae.Scorer,
        fn_constructor_kwargs={"checkpoint": work.model, "root": work.folder, "draws": work.draws},
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    ).write_parquet(folder)


def _on_daft(work: _Work, folder: str) -> None:
    import daft
    import pyarrow as pa

    import vae

    os.environ["OMP_NUM_THREADS"] = "1"  # a worker for each of two cores
    scorer = vae.Scorer(work.model, root=work.folder, draws=work.draws)
    row = daft.DataType.from_arrow_type(pa.struct(scorer.schema))

    @daft.cls(max_concurrency=2, use_process=True)
    class Score:
        @daft.method.batch(return_dtype=row, unnest=True, batch_size=256)
        def __call__(self, path, content):  # noqa: ANN001, ANN204
            columns = scorer({"path": path, "bytes": content})
            return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))

    files = daft.from_glob_path(f"{work.folder}/**/*.*")
    content = files["path"].download(on_error="null")
    files.select(Score()(files["path"], content)).write_parquet(folder)


def _work() -> None:
    import pyarrow.parquet as pq

    work = tyro.cli(_Work)
    with tempfile.TemporaryDirectory(prefix="elboscope-bench-") as folder:
        {"ray": _on_ray, "daft": _on_daft}[work.engine](work, folder)
        pq.write_table(pq.read_table(folder), work.out)


if __name__ == "__main__":
    _work()
