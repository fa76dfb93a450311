"""``make bench NAME=train``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

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


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    from bench.training_loops import CASES, compare_loops

    flags = tyro.cli(_Arguments, prog="bench train", description=TEXT, args=arguments)
    ratios = []
    for case in [flags.network] if flags.network else CASES:
        try:
            ratios += compare_loops(
                case, flags.turns, flags.steps, flags.device, flags.fast, flags.batch
            )
        except ValueError as error:
            sys.exit(str(error))
    if flags.json:
        print(json.dumps([ratio._asdict() for ratio in ratios], indent=1))
        return
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
