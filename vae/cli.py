"""The command line: ``python -m vae train | evaluate | score | app``.

Progress goes to standard error and results to standard output. Exit codes: 0 done, 1 some images
refused under ``--strict``, 2 usage, 3 diverged, 66 data or checkpoint missing, 73 cannot write,
74 disk or I/O.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from vae.training.config import TrainConfig

__all__ = ["main"]

EXIT_REFUSED, EXIT_USAGE, EXIT_DIVERGED, EXIT_MISSING, EXIT_WRITE, EXIT_IO = 1, 2, 3, 66, 73, 74

_COMMANDS = {
    "train": "Train a VAE and commit it as a checkpoint.",
    "evaluate": "Compute ELBO, rate, distortion and log p(x) on a model's held-out images.",
    "score": "Score image files: ELBO, its two terms, percentile and p-value, one row a file.",
    "app": "Open the app in a browser.",
}


Arguments = TypeVar("Arguments")


class _Stop(Exception):
    """Ends the program with one sentence and an exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words after ``python -m vae``; those of the process when not given.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "score": _score,
        "app": _app,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_USAGE
    if arguments[0] not in commands:
        print(
            f"vae: there is no command {arguments[0]!r}; choose one of: {', '.join(commands)}.",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        return commands[arguments[0]](arguments[1:])
    except _Stop as stop:
        print(f"vae {arguments[0]}: {stop}", file=sys.stderr)
        return stop.code
    except BrokenPipeError:
        # The reader of a pipe left early (`| head`); that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"vae {arguments[0]}: interrupted; nothing was left half-written.", file=sys.stderr)
        return 130


def _overview() -> str:
    lines = [f"  {name:<9} {text}" for name, text in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m vae COMMAND ...",
            "",
            "Elboscope: look inside a VAE, one sample at a time.",
            "",
            *lines,
            "",
            "python -m vae COMMAND --help explains each.",
        ]
    )


def _parse(kind: type[Arguments], command: str, arguments: list[str], note: str = "") -> Arguments:
    """Parses flags into a dataclass; a wrong one ends the program with the valid ones named."""
    try:
        return tyro.cli(
            kind,
            prog=f"python -m vae {command}",
            description=_COMMANDS[command] + note,
            args=arguments,
        )
    except ValueError as error:
        raise _Stop(EXIT_USAGE, str(error)) from error


def _unwritable(path: Path, error: OSError, advice: str = "") -> _Stop:
    refusals = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
    refused = isinstance(error, (*refusals, PermissionError)) or error.errno in (
        errno.EROFS,
        errno.ENAMETOOLONG,
    )
    reason = (error.strerror or str(error)).rstrip(".")
    return _Stop(
        EXIT_WRITE if refused else EXIT_IO, f"cannot write {str(path)!r}: {reason}.{advice}"
    )


# --- train ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TrainArguments:
    """Where the checkpoint goes.

    Args:
        out: The directory to make, for example checkpoints/my-model.
        overwrite: Replace a checkpoint that stands there.
        quiet: Draw no progress bar.
    """

    out: Path
    overwrite: bool = False
    quiet: bool = False


def _train(arguments: list[str]) -> int:
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
        raise _Stop(
            EXIT_USAGE, f"there is no preset {preset!r}; choose one of: {', '.join(PRESETS)}."
        )
    # The preset is the default from which the flags depart, so that --help shows its values.
    both = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[TrainConfig, tyro.conf.arg(name="")], PRESETS[preset]),
            ("to", Annotated[_TrainArguments, tyro.conf.arg(name="")]),
        ],
        kw_only=True,
        frozen=True,
    )
    note = f" A preset may come first: {', '.join(PRESETS)} (default {DEFAULT_PRESET})."
    parsed = _parse(both, "train", arguments, note)
    config, to = _own_words(parsed.run, PRESETS[preset]), parsed.to
    try:
        check_target(to.out, to.overwrite)
    except OSError as error:
        raise _unwritable(to.out, error) from error
    try:
        data = open_data(config.data, config.image_size, config.image_channels)
        config.model(data.spec)
    except DataMissing as error:
        raise _Stop(EXIT_MISSING, str(error)) from error
    except ValueError as error:
        raise _Stop(EXIT_USAGE, str(error)) from error
    try:
        fitted = fit(config, data, progress=not to.quiet)
        metrics = commit(to.out, config, data, fitted, command, to.overwrite, not to.quiet)
    except Diverged as error:
        raise _Stop(EXIT_DIVERGED, str(error)) from error
    except ValueError as error:
        raise _Stop(EXIT_USAGE, str(error)) from error
    except OSError as error:
        raise _unwritable(to.out, error, " Free some space and train again.") from error
    print(f"{to.out}: best step {fitted.best_step}, {fitted.seconds:.0f} s on {fitted.device}")
    print(_metrics_table(metrics))
    return 0


def _own_words(config: TrainConfig, preset: TrainConfig) -> TrainConfig:
    """Drops a preset's title and description from a run that departs from it."""
    words = {"title": config.title, "description": config.description}
    same = dataclasses.replace(preset, **words, seed=config.seed, device=config.device)
    if config == same:
        return config
    kept = {name: "" for name, text in words.items() if text == getattr(preset, name)}
    return dataclasses.replace(config, **kept)


# --- evaluate ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _EvaluateArguments:
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


def _evaluate(arguments: list[str]) -> int:
    from vae.data.datasets import DataMissing
    from vae.elbo.evaluation import evaluate

    flags = _parse(_EvaluateArguments, "evaluate", arguments)
    if flags.limit is not None and flags.limit < 2:
        raise _Stop(EXIT_USAGE, f"--limit must be at least 2, not {flags.limit}.")
    loaded = _open(flags.checkpoint)
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
        raise _Stop(EXIT_MISSING, str(error)) from error
    except ValueError as error:
        raise _Stop(EXIT_USAGE, str(error)) from error
    if flags.json:
        print(json.dumps({"model": loaded.name, **metrics}, indent=1))
    else:
        print(f"{loaded.name}: {metrics['images']} {metrics['split']} images")
        print(_metrics_table(metrics))
    return 0


def _metrics_table(metrics: dict) -> str:
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


# --- score ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ScoreArguments:
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


def _score(arguments: list[str]) -> int:
    from vae.data.images import Adaptation, Limits
    from vae.elbo.files import image_files, score_files, write_rows
    from vae.elbo.rows import FORMATS, to_json

    flags = _parse(_ScoreArguments, "score", arguments)
    if not flags.paths:
        raise _Stop(EXIT_USAGE, "name at least one image file or folder after the checkpoint.")
    if not 0 < flags.max_megabytes <= 2**20:
        raise _Stop(
            EXIT_USAGE, f"--max-megabytes must lie in (0, {2**20}], not {flags.max_megabytes}."
        )
    if flags.out is not None and flags.out.suffix not in FORMATS:
        raise _Stop(
            EXIT_USAGE, f"--out must end in one of {', '.join(FORMATS)}, not {flags.out.name!r}."
        )
    loaded = _open(flags.checkpoint)
    try:
        files = image_files(flags.paths)
    except FileNotFoundError as error:
        raise _Stop(EXIT_MISSING, str(error)) from error
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
        raise _Stop(EXIT_USAGE, str(error)) from error
    if flags.out is not None:
        try:
            write_rows(rows, flags.out)
        except OSError as error:
            raise _unwritable(flags.out, error) from error
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


# --- app --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _AppArguments:
    """Where to serve.

    Args:
        port: The port on 127.0.0.1; the next free one is taken when it is in use.
        checkpoints: The folder of checkpoints.
        browser: Open a browser where there is a display.
    """

    port: int = 8501
    checkpoints: Path | None = None
    browser: bool = True


def _app(arguments: list[str]) -> int:
    from vae.ui.serve import serve

    flags = _parse(_AppArguments, "app", arguments)
    if not 1 <= flags.port <= 65_535:
        raise _Stop(EXIT_USAGE, f"--port must lie in 1..65535, not {flags.port}.")
    if flags.checkpoints is not None and not flags.checkpoints.is_dir():
        raise _Stop(EXIT_MISSING, f"there is no folder {str(flags.checkpoints)!r}.")
    return serve(flags.port, flags.checkpoints, flags.browser)


def _open(name: str):  # noqa: ANN202
    """Opens a checkpoint by path, or by name among those in the project's folder."""
    from vae.model.checkpoint import CheckpointError, load
    from vae.model.registry import default_root, find

    try:
        return load(name if os.path.isdir(name) else find(name, default_root()).path)
    except CheckpointError as error:
        raise _Stop(EXIT_MISSING, str(error)) from error
