"""``python -m vae evaluate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import tyro

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, open_checkpoint, parse

__all__ = ["TEXT", "evaluate", "metrics_table"]

TEXT = "Compute ELBO, rate, distortion and log p(x) on a model's held-out images."


@dataclass(frozen=True)
class _Arguments:
    """How to evaluate.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        importance_samples: The k of the importance-weighted bound.
        limit: Evaluate only the first so many validation images.
        split: Which held-out images; calibration is for percentiles, so think before using it.
        draws: Draws for the ELBO where the latent space has more than 2 dimensions.
        seed: The seed of every draw.
        json: Print one JSON document instead of a table.
    """

    checkpoint: tyro.conf.Positional[str]
    importance_samples: int = 5_000
    limit: int | None = None
    split: Literal["validation", "calibration"] = "validation"
    draws: int = 64
    seed: int = 0
    json: bool = False


def evaluate(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.datasets import DataMissing
    from vae.elbo.evaluation import evaluate

    flags = parse(_Arguments, "evaluate", TEXT, arguments)
    if flags.limit is not None and flags.limit < 2:
        raise Stop(EXIT_USAGE, f"--limit must be at least 2, not {flags.limit}.")
    loaded = open_checkpoint(flags.checkpoint)
    try:
        metrics = evaluate(
            loaded,
            split=flags.split,
            limit=flags.limit,
            draws=flags.draws,
            importance_samples=flags.importance_samples,
            seed=flags.seed,
        )
    except DataMissing as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    if flags.json:
        print(json.dumps({"model": loaded.name, **metrics}, indent=1))
    else:
        print(f"{loaded.name}: {metrics['images']} {metrics['split']} images")
        print(metrics_table(metrics))
    return 0


def metrics_table(metrics: dict) -> str:
    names = {
        "elbo": "ELBO",
        "rate": "rate (KL)",
        "distortion": "distortion (-E log p(x|z))",
        "iwae_bound": f"importance-weighted bound, k = {metrics['importance_samples']}",
        "log_evidence": "log p(x), exact",
    }
    lines = [
        f"  {text:<44} {metrics[name]:>10.3f} ± {metrics[f'{name}_se']:.3f} nats"
        for name, text in names.items()
        if name in metrics
    ]
    if metrics["bits_per_dim"] is not None:
        lines.append(f"  {'bits per dimension':<44} {metrics['bits_per_dim']:>10.4f}")
    lines.append(f"  {'active latent dimensions':<44} {metrics['active_units']:>10}")
    return "\n".join(lines)
