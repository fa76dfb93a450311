"""``python -m vae check``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import tyro

from vae.cli.program import EXIT_MISSING, EXIT_REFUSED, EXIT_USAGE, Stop, open_checkpoint, parse

__all__ = ["TEXT", "check"]

TEXT = "Say what holds of a model: shapes, batch-mates, the measured weight of its KL, the prior."


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """The arguments.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        limit: Of at most so many held-out images.
        json: Print one JSON document instead of a table.
        strict: End with exit code 1 where something does not hold.
    """

    checkpoint: tyro.conf.Positional[str]
    limit: int = 500
    json: bool = False
    strict: bool = False


def check(arguments: list[str]) -> int:
    """Runs the checks; returns the exit code."""
    from vae.data.sets.image_data import DataMissing
    from vae.elbo.conformance import check_model
    from vae.elbo.seen import see
    from vae.store.originals import originals

    flags = parse(_Arguments, "check", TEXT, arguments)
    if flags.limit < 16:
        raise Stop(EXIT_USAGE, f"--limit must be at least 16, not {flags.limit}.")
    loaded = open_checkpoint(flags.checkpoint)
    rows = loaded.reference.of_split("validation")
    try:
        levels = originals(loaded, rows[: flags.limit])
    except DataMissing as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    found = check_model(see(loaded.model, levels))
    failed = [one for one in found if one.outcome == "does not hold"]
    if flags.json:
        checks = [asdict(one) for one in found]
        print(
            json.dumps({"model": loaded.name, "images": len(levels), "checks": checks}, indent=1)
        )
    else:
        print(
            f"{loaded.name}: {len(found) - len(failed)} of {len(found)} checks hold or say nothing"
        )
        for one in found:
            print(f"  {one.outcome:<14} {one.id:<14} {one.sentence}")
            if one.consequence:
                print(f"  {'':<29} {one.consequence}")
    return EXIT_REFUSED if flags.strict and failed else 0
