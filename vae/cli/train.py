"""``python -m vae train``."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vae.cli.evaluate import metrics_table
from vae.cli.program import (
    EXIT_DIVERGED,
    EXIT_USAGE,
    Stop,
    data_missing,
    parse,
    unwritable,
)

if TYPE_CHECKING:
    from vae.training.config import TrainConfig

__all__ = ["TEXT", "train"]

TEXT = "Train a VAE and commit it as a checkpoint."


@dataclass(frozen=True)
class _Arguments:
    """Where the checkpoint goes.

    Args:
        out: The directory to make, for example checkpoints/my-model.
        overwrite: Replace a checkpoint that stands there.
        quiet: Draw no progress bar.
    """

    out: Path
    overwrite: bool = False
    quiet: bool = False


def train(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.datasets import DataMissing, open_data
    from vae.model.checkpoint import check_target
    from vae.training.commit import commit
    from vae.training.config import TrainConfig
    from vae.training.fit import Diverged, fit
    from vae.training.presets import DEFAULT_PRESET, PRESETS

    command = shlex.join(["python", "-m", "vae", "train", *arguments])
    preset = DEFAULT_PRESET
    if arguments and not arguments[0].startswith("-"):
        preset, arguments = arguments[0], arguments[1:]
    if preset not in PRESETS:
        raise Stop(
            EXIT_USAGE, f"there is no preset {preset!r}; choose one of: {', '.join(PRESETS)}."
        )
    # The preset is the default from which the flags depart, so that --help shows its values.
    both = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[TrainConfig, tyro.conf.arg(name="")], PRESETS[preset]),
            ("to", Annotated[_Arguments, tyro.conf.arg(name="")]),
        ],
        kw_only=True,
        frozen=True,
    )
    note = f" A preset may come first: {', '.join(PRESETS)} (default {DEFAULT_PRESET})."
    parsed = parse(both, "train", TEXT + note, arguments)
    config, to = _own_words(parsed.run, PRESETS[preset]), parsed.to
    try:
        check_target(to.out, to.overwrite)
    except OSError as error:
        raise unwritable(to.out, error) from error
    try:
        data = open_data(config.data, config.image_size, config.image_channels)
        config.model(data.spec)
    except DataMissing as error:
        raise data_missing(error) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    try:
        fitted = fit(config, data, progress=not to.quiet)
        metrics = commit(to.out, config, data, fitted, command, to.overwrite, not to.quiet)
    except Diverged as error:
        raise Stop(EXIT_DIVERGED, str(error)) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    except OSError as error:
        raise unwritable(to.out, error, " Free some space and train again.") from error
    print(f"{to.out}: best step {fitted.best_step}, {fitted.seconds:.0f} s on {fitted.device}")
    print(metrics_table(metrics))
    return 0


def _own_words(config: TrainConfig, preset: TrainConfig) -> TrainConfig:
    """Drops a preset's title and description from a run that departs from it."""
    words = {"title": config.title, "description": config.description}
    same = dataclasses.replace(preset, **words, seed=config.seed, device=config.device)
    if config == same:
        return config
    kept = {name: "" for name, text in words.items() if text == getattr(preset, name)}
    return dataclasses.replace(config, **kept)
