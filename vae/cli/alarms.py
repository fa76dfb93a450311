"""``python -m vae alarms``: what alarms at one rate of false alarms catch."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tyro

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, open_checkpoint, parse

__all__ = ["TEXT", "alarms"]

TEXT = "Measure the share of strange images of known kinds that alarms catch."


@dataclass(frozen=True)
class _Arguments:
    """Which model, and how strict.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        rate: The rate of false alarms; 1 %, or the smallest that is supported, when not given.
        limit: The most images of each kind.
        seed: The seed that makes the strange images.
        evidence: Whether log p(x) is one of the opinions, where it is exact; it takes a minute.
        json: Print one JSON document.
    """

    checkpoint: tyro.conf.Positional[str]
    rate: float | None = None
    limit: int = 500
    seed: int = 0
    evidence: bool = True
    json: bool = False


def alarms(arguments: list[str]) -> int:
    """Runs the measurement; returns its exit code."""
    from vae.data.sets.image_data import DataMissing
    from vae.scoring.alarms import alarm_rates

    flags = parse(_Arguments, "alarms", TEXT, arguments)
    if not 0 <= flags.seed < 2**63:
        raise Stop(EXIT_USAGE, f"--seed must lie in 0..2^63-1, not {flags.seed}.")
    if flags.limit < 1:
        raise Stop(EXIT_USAGE, f"--limit must be at least 1, not {flags.limit}.")
    loaded = open_checkpoint(flags.checkpoint)
    try:
        found = alarm_rates(loaded, flags.rate, flags.limit, flags.seed, flags.evidence)
    except DataMissing as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, f"--rate: {error}") from error
    if flags.json:
        print(json.dumps({"model": loaded.name, **found._asdict()}, indent=1))
        return 0
    opinions = list(next(iter(found.shares.values())))
    print(
        f"{loaded.name}: share flagged at {100 * found.rate:.2f} % false alarms "
        f"(95 %: {100 * found.low:.2f} to {100 * found.high:.2f} %)"
    )
    print(f"  {'images':<16} {'n':>5}" + "".join(f"{name:>17}" for name in opinions))
    for kind, shares in found.shares.items():
        cells = "".join(f"{100 * shares[name]:>15.1f} %" for name in opinions)
        print(f"  {kind:<16} {found.images[kind]:>5}{cells}")
    return 0
