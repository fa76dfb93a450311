"""``python -m vae bench train``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from vae.cli.program import EXIT_USAGE, Stop, parse

__all__ = ["TEXT", "bench_train"]

TEXT = "Measure the training loop against a bare and a conventional one."


@dataclass(frozen=True)
class _Arguments:
    """What to measure.

    Args:
        network: The network; both in turn when not given.
        batch: Images a step, in every loop; as usual for the network when not given.
        turns: The turns; the ratio shown is the median of theirs.
        steps: The steps of a turn.
        device: Where to train.
        fast: Also try bfloat16 and compilation, which takes a minute to compile.
        json: Print one JSON document.
    """

    network: Literal["mlp", "conv"] | None = None
    batch: int | None = None
    turns: int = 15
    steps: int = 60
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    fast: bool = True
    json: bool = False


def bench_train(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.training.bench import CASES, compare_loops

    flags = parse(_Arguments, "bench train", TEXT, arguments)
    ratios = []
    for case in [flags.network] if flags.network else CASES:
        try:
            ratios += compare_loops(
                case, flags.turns, flags.steps, flags.device, flags.fast, flags.batch
            )
        except ValueError as error:
            raise Stop(EXIT_USAGE, str(error)) from error
    if flags.json:
        print(json.dumps([ratio._asdict() for ratio in ratios], indent=1))
        return 0
    print("Images per second, as a multiple of another loop's (median and quartiles over turns).")
    print("Ours and the bare loop both average and clip; the conventional one does neither.")
    for ratio in ratios:
        batch = flags.batch or CASES[ratio.case].batch_size
        name = f"{ratio.case}, batch {batch}: {ratio.loop}"
        print(
            f"  {name:<48} {ratio.median:5.2f} x {ratio.against:<12} "
            f"({ratio.low:.2f} to {ratio.high:.2f}; {ratio.by_processor:.2f} by processor time), "
            f"{ratio.images_per_second:,.0f} images/s"
        )
    return 0
