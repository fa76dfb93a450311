"""``python -m vae calibrate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, open_checkpoint, parse, unwritable
from vae.cli.reading import Reading

if TYPE_CHECKING:
    from vae.data.images.listing import LeftOut
    from vae.scoring.calibration_sets import CalibrationSet
    from vae.store.checkpoint import Checkpoint

__all__ = ["TEXT", "calibrate"]

TEXT = "Score a folder of good images and keep them as a calibration set of the model."

_NOTE = (
    " Percentiles and p-values of `python -m vae score --calibration NAME` then say how an image"
    " compares with these. Take images that the model wasn't trained on, all of the kind that is"
    " to pass; with n of them no p-value is smaller than 1 / (n + 1)."
)


@dataclass(frozen=True, kw_only=True)
class _Arguments(Reading):
    """Which images, and the name of the set.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        paths: Folders of images, files, or patterns such as 'good/*.png'.
        out: The set's name: letters, digits, hyphens and underscores.
        draws: Draws behind each ELBO; those of the model's own calibration set when not given.
        seed: The seed of the draws.
        overwrite: Replace a set of that name.
    """

    checkpoint: tyro.conf.Positional[str]
    paths: tyro.conf.Positional[tuple[Path, ...]]
    out: str
    draws: int | None = None
    seed: int = 0
    overwrite: bool = False


def calibrate(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    import numpy as np
    from tqdm import tqdm

    from vae.data.images.listing import LeftOut, image_files, text_of
    from vae.elbo.expectation import draws_used
    from vae.scoring.calibration_sets import calibration_of, check_name, write_calibration
    from vae.scoring.files import score_files
    from vae.scoring.scorer import ScoreSettings
    from vae.scoring.scores import check_counts

    flags = parse(_Arguments, "calibrate", TEXT + _NOTE, arguments)
    if not flags.paths:
        raise Stop(EXIT_USAGE, "name a folder of good images after the checkpoint.")
    limits = flags.limits
    loaded = open_checkpoint(flags.checkpoint)
    target = loaded.path / "calibrations" / flags.out
    # By quadrature no draw is used, and any number is one.
    draws = flags.draws or max(1, calibration_of(loaded).draws)
    elbo: list[float] = []
    refused: list[str] = []
    passed = LeftOut()
    try:
        check_name(loaded, flags.out, flags.overwrite)
        check_counts(draws, 0, flags.seed)
        settings = ScoreSettings(flags.adaptation, limits, draws, 0, flags.seed, evidence=False)
        files = image_files(flags.paths, passed)
        with tqdm(disable=not sys.stderr.isatty(), unit="image", file=sys.stderr) as bar:
            for part in score_files(loaded, files, settings, workers=flags.workers):
                elbo += [row.elbo for row in part.rows if row.error is None]
                refused += [row.name for row in part.rows if row.error is not None]
                bar.update(len(part.rows))
        made = write_calibration(
            loaded,
            flags.out,
            np.array(elbo),
            draws=draws_used(loaded, draws),
            seed=flags.seed,
            adaptation=flags.adaptation,
            refused=len(refused),
            # Names alone: where they lie on this machine is nobody else's business.
            source=", ".join(text_of(path.absolute().name) for path in flags.paths)[:200],
            overwrite=flags.overwrite,
        )
    except FileExistsError as error:
        raise unwritable(target, error) if error.errno else Stop(73, str(error)) from error
    except FileNotFoundError as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    except OSError as error:
        raise unwritable(target, error) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    _report(loaded, made, len(refused), passed)
    return 0


def _report(loaded: Checkpoint, made: CalibrationSet, refused: int, passed: LeftOut) -> None:
    """Prints what was made, and on standard error what was left out of it and why it matters."""
    from vae.figures.frame import plus_minus

    count = len(made.elbo)
    if refused:
        left_out = f"{refused} of {count + refused} files were refused and left out"
        print(f"vae calibrate: {left_out}.", file=sys.stderr)
    if told := str(passed):
        print(f"vae calibrate: {told}", file=sys.stderr)
    smallest = made.calibration.smallest_p_value
    if smallest > 0.01:
        print(
            f"vae calibrate: {count} images support no false-alarm rate below "
            f"{100 * smallest:.1f} %; a rate of 1 % takes 99 of them, 0.1 % takes 999.",
            file=sys.stderr,
        )
    error = plus_minus(float(made.elbo.std(ddof=1)) / count**0.5, 3).replace("\u00a0", " ")
    print(
        f"{loaded.name}: calibration set {made.name!r} of {count} images, ELBO "
        f"{made.elbo.mean():.3f}{error} nats; smallest p-value {smallest:.3g}"
    )
