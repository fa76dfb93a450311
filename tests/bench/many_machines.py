"""``make bench NAME=many_machines``: folders through the command line, torchrun, Ray and Daft."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from vae.data.images.many import Decoded
from vae.scoring.rows import ScoreRow
from vae.scoring.scorer import Scorer

TEXT = "Folders through the command line, torchrun, Ray Data and Daft: rates, and the same rows."

_NOTE = (
    " The clock runs from when each worker has scored its first batch, so that starting up is left"
    " out. Ray and Daft use two workers, where they are installed."
)
_ROOT = Path(__file__).parents[2]
_TIMES = "ELBOSCOPE_BENCH_TIMES"
_MODEL = "digits-10d"
_ENGINES = ("command line", "torchrun", "ray", "daft")


@dataclass(frozen=True)
class _Arguments:
    """How much to measure.

    Args:
        files: PNG files of 8×8.
        photographs: JPEG files of 256×256.
        draws: Draws an image.
    """

    files: int = 20_000
    photographs: int = 8_000
    draws: int = 64


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    flags = tyro.cli(
        _Arguments, prog="bench many_machines", description=TEXT + _NOTE, args=arguments
    )
    if min(flags.files, flags.photographs, flags.draws) < 1:
        sys.exit("--files, --photographs and --draws take at least 1.")
    from vae.data.images.many import cores

    print(f"{cores()} cores; images a second, start-up left out; 0 where all is start-up")
    with tempfile.TemporaryDirectory(prefix="elboscope-bench-") as temporary:
        home = Path(temporary)
        for kind, count, content in (
            ("PNG files of 8×8", flags.files, _small),
            ("JPEG files of 256×256", flags.photographs, _photograph),
        ):
            folder = home / kind.split()[0]
            _make(folder, count, content)
            print(f"\n{count} {kind}, {_MODEL}, {flags.draws} draw(s)")
            _compare(folder, flags.draws)


def _compare(folder: Path, draws: int) -> None:
    import pyarrow.parquet as pq

    first = None
    for engine in _ENGINES:
        if engine in ("ray", "daft") and importlib.util.find_spec(engine) is None:
            print(f"  {engine:<14} is not installed")
            continue
        out = folder.with_name(f"{folder.name}-{engine}.parquet")
        times = folder.with_name(f"{folder.name}-{engine}-times")
        times.mkdir()
        _call(engine, folder, out, times, draws)
        rows = pq.read_table(out).sort_by("name")
        first = rows if first is None else first
        same = "the same rows" if rows.cast(first.schema).equals(first) else "OTHER ROWS"
        print(f"  {engine:<14}{_rate(times):>10.0f}   {rows.num_rows} rows, {same}", flush=True)


def _call(engine: str, folder: Path, out: Path, times: Path, draws: int) -> None:
    variables = {
        "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "tests"))),
        "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1", _TIMES: str(times),
    }  # fmt: skip
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*(start if engine == "torchrun" else []), "-m", "bench.many_machines", engine]
    done = subprocess.run(
        [sys.executable, *words, folder, out, str(draws)],
        env={**os.environ, **variables}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{engine} failed:\n{done.stderr[-3_000:]}")


def _rate(times: Path) -> float:
    """Images a second from when each worker has scored its first batch to the last one."""
    batches = [
        [tuple(map(float, line.split())) for line in one.read_text().splitlines()]
        for one in times.iterdir()
    ]
    begun = max(lines[0][0] for lines in batches)
    after = [line for lines in batches for line in lines if line[0] > begun]
    return sum(n for _, n in after) / (max(after)[0] - begun) if after else 0.0


def _make(folder: Path, count: int, content) -> None:  # noqa: ANN001  (a function)
    folder.mkdir()
    for number in range(count):
        content(folder / f"{number:07d}", np.random.default_rng(number))


def _small(path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 17, (8, 8), dtype=np.uint8) * 15
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def _photograph(path: Path, rng: np.random.Generator) -> None:
    coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    fine = coarse.resize((256, 256), Image.Resampling.BICUBIC)
    fine.save(path.with_suffix(".jpg"), quality=90)


# --- In a process of an engine ----------------------------------------------------------------


class Timed(Scorer):
    """Writes down when it has scored how many files."""

    def rows(self, names: Sequence[str], decoded: Decoded) -> list[ScoreRow]:
        rows = super().rows(names, decoded)
        with Path(os.environ[_TIMES], str(os.getpid())).open("a") as file:
            file.write(f"{time.time()} {len(rows)}\n")
        return rows


def _by_command(folder: str, out: str, draws: str) -> None:
    from vae.cli.main import main
    from vae.scoring import files

    files.Scorer = Timed
    sys.exit(main(["score", _MODEL, folder, "--out", out, "--draws", draws]))


def _on_ray(folder: str, out: str, draws: str) -> None:
    import ray

    # One more than the workers take is for reading.
    ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR")
    ray.data.read_binary_files(folder, include_paths=True).map_batches(
        Timed,
        fn_constructor_kwargs={"checkpoint": _MODEL, "root": folder, "draws": int(draws)},
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    ).write_parquet(out)


def _on_daft(folder: str, out: str, draws: str) -> None:
    import daft
    import pyarrow as pa

    os.environ["OMP_NUM_THREADS"] = "1"  # of each of two workers
    scorer = Timed(_MODEL, root=folder, draws=int(draws))
    row = daft.DataType.from_arrow_type(pa.struct(scorer.schema))

    @daft.cls(max_concurrency=2, use_process=True)
    class Score:
        @daft.method.batch(return_dtype=row, unnest=True, batch_size=256)
        def __call__(self, path: daft.Series, content: daft.Series) -> pa.StructArray:
            columns = scorer({"path": path, "bytes": content})
            return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))

    files = daft.from_glob_path(f"{folder}/*")
    content = files["path"].download(on_error="null")
    files.select(Score()(files["path"], content)).write_parquet(out)


if __name__ == "__main__":
    # Timed is pickled by its name, which it has in a module that others can import.
    from bench import many_machines

    by = {"ray": many_machines._on_ray, "daft": many_machines._on_daft}
    by.get(sys.argv[1], many_machines._by_command)(*sys.argv[2:])
