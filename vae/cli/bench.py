"""``python -m vae bench NAME``."""

from __future__ import annotations

from collections.abc import Callable

from vae.cli import (
    bench_alarms,
    bench_bound,
    bench_film,
    bench_plane,
    bench_score,
    bench_screens,
    bench_train,
)
from vae.cli.program import EXIT_USAGE, Stop

__all__ = ["TEXT", "bench"]

TEXT = "Measure speed, mostly as ratios to plain loops that take turns in one process."

_BENCHMARKS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "train": (bench_train.TEXT, bench_train.bench_train),
    "score": (bench_score.TEXT, bench_score.bench_score),
    "alarms": (bench_alarms.TEXT, bench_alarms.bench_alarms),
    "bound": (bench_bound.TEXT, bench_bound.bench_bound),
    "plane": (bench_plane.TEXT, bench_plane.bench_plane),
    "film": (bench_film.TEXT, bench_film.bench_film),
    "screens": (bench_screens.TEXT, bench_screens.bench_screens),
}


def bench(arguments: list[str]) -> int:
    """Runs one benchmark; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m vae bench NAME ...\n\n" + TEXT + " The defaults suit two cores.\n")
        for name, (text, _) in _BENCHMARKS.items():
            print(f"  {name:<9} {text}")
        return 0 if arguments else EXIT_USAGE
    name, *rest = arguments
    if name not in _BENCHMARKS:
        valid = ", ".join(_BENCHMARKS)
        raise Stop(EXIT_USAGE, f"there is no benchmark {name!r}; choose one of: {valid}.")
    return _BENCHMARKS[name][1](rest)
