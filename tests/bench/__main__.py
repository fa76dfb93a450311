"""Finds a benchmark and runs it."""

from __future__ import annotations

import sys

from bench import bound, film, many_machines, plane, score, screens, train, walks

BENCHMARKS = {
    "train": train,
    "score": score,
    "bound": bound,
    "many_machines": many_machines,
    "plane": plane,
    "film": film,
    "screens": screens,
    "walks": walks,
}


def main(arguments: list[str]) -> None:
    """Runs the benchmark named by the first word; lists them where there is none."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print('Usage: make bench NAME=name [ARGS="--help"]\n')
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:<13} {benchmark.TEXT}")
        print("\nMost print ratios to plain loops that take turns in one process.")
        return
    name, *rest = arguments
    if name not in BENCHMARKS:
        sys.exit(f"there is no benchmark {name!r}; choose one of: {', '.join(BENCHMARKS)}.")
    BENCHMARKS[name].run(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
