"""``python -m vae score``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vae.cli.program import (
    EXIT_MISSING,
    EXIT_REFUSED,
    EXIT_USAGE,
    Stop,
    open_checkpoint,
    parse,
    unwritable,
)

__all__ = ["TEXT", "score"]

TEXT = "Score image files: ELBO, its two terms, percentile and p-value, one row a file."


@dataclass(frozen=True)
class _Arguments:
    """What to score, and how.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        paths: Image files, or folders that are searched for them.
        draws: Draws for the ELBO where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed; an image's noise follows from (seed, image).
        evidence: Also compute the exact log p(x) where the latent space has at most 2 dimensions.
        invert: Exchange black and white: when the background disagrees (auto), always or never.
        crop: Cut to the content: when the image isn't of the model's size (auto), always or never.
        max_megabytes: The largest file, in MB.
        json: Print one JSON document, an array of rows.
        out: Write the rows to a file instead: .csv, .json, .jsonl or .parquet.
        strict: End with exit code 1 when an image was refused.
    """

    checkpoint: tyro.conf.Positional[str]
    paths: tyro.conf.Positional[tuple[Path, ...]]
    draws: int = 64
    importance_samples: int = 0
    seed: int = 0
    evidence: bool = True
    invert: Literal["auto", "yes", "no"] = "auto"
    crop: Literal["auto", "yes", "no"] = "auto"
    max_megabytes: float = 64.0
    json: bool = False
    out: Path | None = None
    strict: bool = False


def score(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.images import Adaptation, Limits
    from vae.elbo.files import image_files, score_files, write_rows
    from vae.elbo.rows import FORMATS, to_json

    flags = parse(_Arguments, "score", TEXT, arguments)
    if not flags.paths:
        raise Stop(EXIT_USAGE, "name at least one image file or folder after the checkpoint.")
    if not 0 < flags.max_megabytes <= 2**20:
        raise Stop(
            EXIT_USAGE, f"--max-megabytes must lie in (0, {2**20}], not {flags.max_megabytes}."
        )
    if flags.out is not None and flags.out.suffix not in FORMATS:
        raise Stop(
            EXIT_USAGE, f"--out must end in one of {', '.join(FORMATS)}, not {flags.out.name!r}."
        )
    loaded = open_checkpoint(flags.checkpoint)
    try:
        files = image_files(flags.paths)
    except FileNotFoundError as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    try:
        rows = score_files(
            loaded,
            files,
            adaptation=Adaptation(invert=flags.invert, crop=flags.crop),
            limits=Limits(bytes=int(flags.max_megabytes * 2**20)),
            draws=flags.draws,
            importance_samples=flags.importance_samples,
            seed=flags.seed,
            evidence=flags.evidence,
            progress=sys.stderr.isatty(),
        )
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    if flags.out is not None:
        try:
            write_rows(rows, flags.out)
        except OSError as error:
            raise unwritable(flags.out, error) from error
    elif flags.json:
        print(to_json(rows).decode(), end="")
    else:
        print(_score_table(rows))
    refused = sum(row.error is not None for row in rows)
    if refused:
        print(f"vae score: {refused} of {len(rows)} images were refused.", file=sys.stderr)
    return EXIT_REFUSED if refused and flags.strict else 0


def _score_table(rows: Iterable) -> str:
    width = min(48, max((len(row.name) for row in rows), default=4))
    lines = [
        f"{'name':<{width}}  {'ELBO':>12}  {'± se':>7}  {'KL':>9}  {'percentile':>10}  p-value"
    ]
    for row in rows:
        # A file's name may hold whatever would drive a terminal.
        name = "".join(letter if letter.isprintable() else "�" for letter in row.name)
        name = name if len(name) <= width else f"…{name[1 - width :]}"
        if row.error is not None:
            lines.append(f"{name:<{width}}  refused: {row.error} ({row.error_code})")
        else:
            lines.append(
                f"{name:<{width}}  {row.elbo:>12.4f}  {row.elbo_se:>7.4f}  {row.kl:>9.4f}  "
                f"{row.percentile:>9.1f}%  {row.p_value:.3f}"
            )
    return "\n".join(lines)
