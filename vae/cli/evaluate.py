"""``python -m vae evaluate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from vae.cli.program import EXIT_USAGE, Stop, data_missing, open_checkpoint, parse

__all__ = ["TEXT", "evaluate", "metrics_table"]

TEXT = "Compute ELBO, rate, distortion and log p(x) on a model's held-out images."


@dataclass(frozen=True)
class _Arguments:
    """How to evaluate.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        importance_samples: The k of the importance-weighted bound.
        limit: Evaluate only the first so many images.
        split: Which held-out images: validation; test, where the data set has test images of its
            own; calibration is for percentiles, so think before using it.
        draws: Draws for the ELBO where the latent space has more than 2 dimensions.
        evidence_images: Compute the exact log p(x), where there is one, of so many images at most;
            0 for none.
        seed: The seed of every draw.
        json: Print one JSON document instead of a table.
    """

    checkpoint: tyro.conf.Positional[str]
    importance_samples: int = 5_000
    limit: int | None = None
    split: Literal["validation", "calibration", "test"] = "validation"
    draws: int = 64
    evidence_images: int | None = None
    seed: int = 0
    json: bool = False


def evaluate(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.sets.image_data import DataMissing
    from vae.scoring.evaluation import evaluate

    flags = parse(_Arguments, "evaluate", TEXT, arguments)
    if flags.limit is not None and flags.limit < 1:
        raise Stop(EXIT_USAGE, f"--limit must be at least 1, not {flags.limit}.")
    if flags.evidence_images is not None and flags.evidence_images < 0:
        raise Stop(
            EXIT_USAGE, f"--evidence-images must be at least 0, not {flags.evidence_images}."
        )
    loaded = open_checkpoint(flags.checkpoint)
    try:
        metrics = evaluate(
            loaded,
            split=flags.split,
            limit=flags.limit,
            draws=flags.draws,
            importance_samples=flags.importance_samples,
            seed=flags.seed,
            evidence_images=flags.evidence_images,
        )
    except DataMissing as error:
        raise data_missing(error) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    if flags.json:
        print(json.dumps({"model": loaded.name, **metrics}, indent=1))
    else:
        print(f"{loaded.name}: {metrics['images']} {metrics['split']} images")
        print(metrics_table(metrics))
    return 0


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics as lines for people, each number with its unit and error."""
    from vae.figures.frame import adding_up, plus_minus

    # As they are shown, rate and distortion add up to minus the ELBO, and the rate's parts to it.
    rate, distortion = adding_up((metrics["rate"], metrics["distortion"]), 3)
    shown = metrics | {"rate": rate, "distortion": distortion}
    if "mutual_information" in metrics:
        parts = ("mutual_information", "aggregate_kl")
        values = adding_up([metrics[name] for name in parts], 3, rate)
        shown |= dict(zip(parts, values, strict=True))
    names = {
        "elbo": "ELBO",
        "rate": "rate (KL)",
        "distortion": "distortion (-E log p(x|z))",
        "iwae_bound": f"importance-weighted bound, k = {metrics['importance_samples']}",
        "log_evidence": "log p(x), exact",
    }
    if "log_evidence_images" in metrics:
        known = f"{metrics['log_evidence_images']:,} of {metrics['images']:,}"
        names["log_evidence"] += f", {known} images"
    lines = [
        _line(text, f"{shown[name]:.3f}{plus_minus(metrics.get(f'{name}_se'), 3)} nats")
        for name, text in names.items()
        if name in metrics
    ]
    if metrics["bits_per_dim"] is not None:
        lines.append(_line("bits per pixel value", f"{metrics['bits_per_dim']:.4f}"))
    lines.append(_line("active units", str(metrics["active_units"])))
    if "mutual_information" in metrics:
        lines += _aggregate_lines(shown)
    if "mutual_information_gap" in metrics:
        gaps = ", ".join(f"{name} {gap:.2f}" for name, gap in metrics["factor_gaps"].items())
        value = f"{metrics['mutual_information_gap']:.3f} of 1 ({gaps})"
        lines.append(_line("mutual information gap (MIG)", value))
    return "\n".join(lines)


def _aggregate_lines(metrics: dict[str, Any]) -> list[str]:
    from vae.figures.frame import plus_minus

    count = f"log {metrics['images']:,}"
    error = plus_minus(metrics["surgery_se"], 3)
    lines = [
        _line(text, f"{metrics[name]:.3f}{error} nats{end}")
        for name, text, end in (
            (
                "mutual_information",
                "mutual information of image and z",
                f", at most {count} = {metrics['log_images']:.3f}",
            ),
            ("aggregate_kl", "KL of the aggregate q(z) to the prior", ""),
            ("total_correlation", "total correlation of the aggregate q(z)", ""),
        )
    ]
    if metrics["pinned"]:
        lines.append(f"  (The rate exceeds {count}, so these three say more about the number of")
        lines.append("  images than about the model; with more images the first would be larger.)")
    return lines


def _line(text: str, value: str) -> str:
    number, _, rest = value.replace("\u00a0", " ").partition(" ")
    return f"  {text:<44} {number:>10} {rest}".rstrip()
