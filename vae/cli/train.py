"""``python -m vae train``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vae.cli.evaluate import metrics_table
from vae.cli.program import (
    EXIT_DIVERGED,
    EXIT_MISSING,
    EXIT_USAGE,
    EXIT_WRITE,
    Stop,
    data_missing,
    parse,
    unwritable,
)

if TYPE_CHECKING:
    from vae.data.sets.image_data import ImageData
    from vae.processes import Processes
    from vae.training.config import TrainConfig
    from vae.training.run.run_folder import RunFolder

__all__ = ["TEXT", "train"]

TEXT = "Train a VAE and commit it as a checkpoint."


@dataclass(frozen=True)
class _Arguments:
    """Where the checkpoint goes.

    Args:
        out: The directory to make, for example checkpoints/my-model. While training, everything
            lies in its folder .run.
        overwrite: Replace a checkpoint, or an unfinished run, that stands there.
        resume: Go on with the unfinished run that stands there; no other flag is needed.
        force: Resume although flags differ from those the run was begun with, or the version
            does; what differs is shown and recorded. Never with other images.
        save_minutes: The minutes between two savings of the run, and so what a crash can cost.
        tensorboard: A folder for TensorBoard's files (needs the tensorboard package).
        quiet: Draw no progress bar.
    """

    out: Path
    overwrite: bool = False
    resume: bool = False
    force: bool = False
    save_minutes: float = 1.0
    tensorboard: Path | None = None
    quiet: bool = False


def train(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.images.listing import text_of
    from vae.processes import joined
    from vae.training.arithmetic import choose_device
    from vae.training.config import TrainConfig

    for word in arguments:
        if (text := text_of(word)) != word:
            sentence = f"{text!r} is not UTF-8, so no checkpoint could record it; rename it."
            raise Stop(EXIT_USAGE, sentence)
    config, to = _parsed(arguments)
    if to.force and not to.resume:
        raise Stop(EXIT_USAGE, "--force goes with --resume; to start anew, pass --overwrite.")
    if not 0 <= to.save_minutes < 1e6:
        raise Stop(EXIT_USAGE, f"--save-minutes must be at least 0, not {to.save_minutes}.")
    try:
        device = choose_device(config.device)
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    with joined(device.type) as processes:
        # What the leading process reads of a run to resume, the others may not see.
        config = TrainConfig.from_dict(processes.from_leader(dataclasses.asdict(config)))
        command = shlex.join([*processes.program, "-m", "vae", "train", *arguments])
        return _train(config, to, command, processes)


def _train(config: TrainConfig, to: _Arguments, command: str, processes: Processes) -> int:
    from vae.training.commit import commit
    from vae.training.fit import fit
    from vae.training.run.monitor import StopSignals, Watch

    with (
        _place(to, processes) as folder,
        StopSignals() as signals,
        _sentences(config, to, folder, processes),
    ):
        saved = None
        if to.resume:
            # Only the leading process needs to see the folder.
            state, best = (folder.read(f"{name}.safetensors") for name in ("state", "best"))
            saved = processes.from_leader(state), processes.from_leader(best)
            command = (folder.status() or {}).get("command") or command
        with processes.leader_first():
            data, config = _opened(config)
        if processes.leads:
            _say_copies(data)
        else:
            silent = Watch(progress=False, signals=signals)
            fit(config, data, False, silent, processes, saved, to.force)
            return 0
        watch = Watch(
            folder,
            progress=not to.quiet,
            signals=signals,
            command=command,
            save_seconds=60 * to.save_minutes,
            tensorboard=to.tensorboard,
        )
        fitted = fit(config, data, watch=watch, processes=processes, saved=saved, force=to.force)
        # From here on all is saved, and an interruption needn't wait.
        signals.at_once = True
        watch.close(phase="reference", message="Computing the reference statistics.")
        overwrite = to.overwrite or to.resume
        metrics = commit(to.out, config, data, fitted, command, overwrite, not to.quiet)
        folder.remove()
    print(f"{to.out}: best step {fitted.best_step}, {fitted.seconds:.0f} s on {fitted.device}")
    print(metrics_table(metrics))
    return 0


def _parsed(arguments: list[str]) -> tuple[TrainConfig, _Arguments]:
    """The run and where it goes; a resumed run's own config is what its flags depart from."""
    from vae.training.config import TrainConfig
    from vae.training.presets import DEFAULT_PRESET, PRESETS

    preset = None
    if arguments and not arguments[0].startswith("-"):
        preset, arguments = arguments[0], arguments[1:]
        if preset not in PRESETS:
            raise Stop(
                EXIT_USAGE, f"there is no preset {preset!r}; choose one of: {', '.join(PRESETS)}."
            )
    begun = None if preset else _begun(arguments)
    default = begun or PRESETS[preset or DEFAULT_PRESET]
    # The preset is the default from which the flags depart, so that --help shows its values.
    both = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[TrainConfig, tyro.conf.arg(name="")], default),
            ("to", Annotated[_Arguments, tyro.conf.arg(name="")]),
        ],
        kw_only=True,
        frozen=True,
    )
    note = f" A preset may come first: {', '.join(PRESETS)} (default {DEFAULT_PRESET})."
    parsed = parse(both, "train", TEXT + note, arguments)
    return (parsed.run if begun else _own_words(parsed.run, default)), parsed.to


def _begun(arguments: list[str]) -> TrainConfig | None:
    """The config of the run that is to be resumed, where the arguments ask for that."""
    from vae.training.run.run_folder import RunFolder
    from vae.training.state.run_state import config_of

    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--out", type=Path, default=None)
    peek.add_argument("--resume", action="store_true")
    try:
        known, _ = peek.parse_known_args(arguments)
    except argparse.ArgumentError:
        return None  # the parser proper says what is wrong
    if not known.resume or known.out is None:
        return None
    data = RunFolder(known.out).read("state.safetensors")
    if data is None and os.environ.get("RANK", "0") != "0":
        return None  # only the leading process needs to see the folder
    if data is None:
        raise Stop(EXIT_MISSING, f"{str(known.out)!r} holds no unfinished run to resume.")
    try:
        return config_of(data)
    except ValueError as error:
        raise Stop(EXIT_MISSING, _damaged(known.out, error)) from error


@contextmanager
def _place(to: _Arguments, processes: Processes) -> Iterator[RunFolder]:
    """The run's folder, held by this process if it leads; removed again where nothing began."""
    from vae.store.target import check_target
    from vae.training.run.run_folder import RunFolder

    folder = RunFolder(to.out)
    if not processes.leads:
        yield folder
        return
    try:
        check_target(to.out, to.overwrite or to.resume)
        with folder.locked():
            folder.tidy()
            if to.resume and not folder.holds_state:
                raise Stop(EXIT_MISSING, f"{str(to.out)!r} holds no unfinished run to resume.")
            if not to.resume:
                if folder.holds_state and not to.overwrite:
                    raise Stop(
                        EXIT_WRITE,
                        f"an unfinished run stands in {str(to.out)!r}; pass --resume to go on "
                        "with it, or --overwrite to start anew.",
                    )
                folder.clear()
            try:
                yield folder
            finally:
                folder.remove_unbegun()
    except OSError as error:
        raise unwritable(to.out, error) from error


def _opened(config: TrainConfig) -> tuple[Any, TrainConfig]:
    """The data, and the config with the widths that suit them."""
    from vae.data.sets.datasets import open_data
    from vae.data.sets.image_data import DataMissing, Reading

    try:
        reading = Reading.of(dataclasses.asdict(config))
        data = open_data(config.data, config.sides, config.image_channels, reading)
        config.model(data.spec)
    except DataMissing as error:
        raise data_missing(error) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    return data, config.resolved(data.spec)


def _say_copies(data: ImageData) -> None:
    """Says on standard error how many held-out images are trained on in a copy."""
    from vae.data.sets.image_data import copies_of

    copies = {name: count for name, count in copies_of(data)._asdict().items() if count}
    if not copies:
        return
    counts = data.facts()["splits"]
    told = [f"{count:,} of {counts[name]['images']:,} {name}" for name, count in copies.items()]
    advice = ""
    if data.name.startswith("folder:") and not len(data.test):
        advice = "; --keep-copies-together puts copies into one split"
    print(
        f"{' and '.join(told)} images are copies of images that training sees, so their scores "
        f"will be too good{advice}",
        file=sys.stderr,
    )


@contextmanager
def _sentences(
    config: TrainConfig, to: _Arguments, folder: RunFolder, processes: Processes
) -> Iterator[None]:
    """Turns what can end a run into one sentence and an exit code."""
    import torch

    from vae.training.fit import Diverged
    from vae.training.run.monitor import Interrupted
    from vae.training.state.packing import Damaged

    words = [*processes.program, "-m", "vae", "train", "--resume", "--out", str(to.out)]
    go_on = shlex.join(words)
    try:
        yield
    except Interrupted as error:
        sentence = f"stopped at step {error.step} and saved; go on with `{go_on}`."
        raise Stop(128 + error.signal if error.signal else 0, sentence) from error
    except Diverged as error:
        raise Stop(EXIT_DIVERGED, str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise Stop(EXIT_USAGE, _too_little_memory(config, folder, words)) from error
    except RuntimeError as error:
        # What torch raises where the memory of the machine itself, not of a GPU, is at its end.
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise Stop(EXIT_USAGE, _too_little_memory(config, folder, words)) from error
    except Damaged as error:
        raise Stop(EXIT_MISSING, _damaged(to.out, error)) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    except OSError as error:
        advice = " Make room and train again."
        if folder.holds_state:
            advice = f" Make room, then go on with `{go_on}`."
        raise unwritable(to.out, error, advice) from error


def _too_little_memory(config: TrainConfig, folder: RunFolder, words: list[str]) -> str:
    # Another batch is another run: it is advised, not taken unasked.
    half = ["--batch-size", str(max(1, config.batch_size // 2))]
    sentence = f"out of memory with batches of {config.batch_size} images; "
    if not folder.holds_state:
        return f"{sentence}try {shlex.join(half)}."
    return f"{sentence}go on with half of them by `{shlex.join([*words, '--force', *half])}`."


def _damaged(out: Path, error: ValueError) -> str:
    return f"the run saved in {str(out)!r} can't be resumed: {error}; start anew with --overwrite."


def _own_words(config: TrainConfig, preset: TrainConfig) -> TrainConfig:
    """Drops a preset's title and description from a run that departs from it."""
    words = {"title": config.title, "description": config.description}
    same = dataclasses.replace(preset, **words, seed=config.seed, device=config.device)
    if config == same:
        return config
    kept = {name: "" for name, text in words.items() if text == getattr(preset, name)}
    return dataclasses.replace(config, **kept)
