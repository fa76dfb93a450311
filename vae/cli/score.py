"""``python -m vae score``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

import tyro

from vae.cli.program import (
    EXIT_IO,
    EXIT_MISSING,
    EXIT_REFUSED,
    EXIT_USAGE,
    Stop,
    open_checkpoint,
    parse,
    unwritable,
)
from vae.cli.reading import Reading

if TYPE_CHECKING:
    from tqdm import tqdm

    from vae.data.images.listing import ImageFile
    from vae.processes import Processes
    from vae.scoring.calibration import FalseAlarms
    from vae.scoring.files import ScoredPart
    from vae.scoring.parts import Parts, Tally
    from vae.scoring.rows import ScoreRow
    from vae.scoring.scorer import ScoreSettings
    from vae.store.checkpoint import Checkpoint

__all__ = ["TEXT", "score"]

TEXT = "Score image files: ELBO, its two terms, percentile and p-value, one row a file."

_NOTE = (
    " Folders may be of any size: with --out, finished rows are kept as the command goes, and the"
    " same command goes on where an interrupted one stopped. Under torchrun each process takes"
    " its share, and one file results."
)


@dataclass(frozen=True, kw_only=True)
class _Arguments(Reading):
    """What to score, and how.

    Args:
        checkpoint: A checkpoint directory, or the name of one in checkpoints/.
        paths: Image files, folders that are searched for them, or patterns such as 'scans/*.png';
            also addresses such as s3://bucket/scans, with `pip install elboscope[remote]`.
        draws: Draws for the ELBO where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed; an image's noise follows from (seed, image).
        evidence: Also compute the exact log p(x) where the latent space has at most 2 dimensions.
        calibration: Percentiles and p-values against this set of `python -m vae calibrate`,
            instead of the model's own.
        json: Print one JSON document, an array of rows.
        out: Write the rows to a file instead, also at an address: .csv, .json, .jsonl or .parquet.
        restart: Drop what an interrupted run has left for --out, and begin anew.
        fail_below: End with exit code 1 when an image's p-value is this or less.
        strict: End with exit code 1 when an image was refused.
    """

    checkpoint: tyro.conf.Positional[str]
    paths: tyro.conf.Positional[tuple[str, ...]]
    draws: int = 64
    importance_samples: int = 0
    seed: int = 0
    evidence: bool = True
    calibration: str | None = None
    json: bool = False
    out: str | None = None
    restart: bool = False
    fail_below: float | None = None
    strict: bool = False


def score(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.images.listing import LeftOut, image_files
    from vae.processes import joined

    flags = parse(_Arguments, "score", TEXT + _NOTE, arguments)
    settings = _settings(flags)
    loaded = open_checkpoint(flags.checkpoint)
    alarms = _gate(loaded, flags)
    left_out = LeftOut()
    try:
        files = image_files(flags.paths, left_out)
        with joined() as processes:
            if flags.out is None:
                tally = _to_screen(loaded, flags, settings, files)
            else:
                tally = _to_file(loaded, flags, settings, files, processes)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _ended(error, flags.out) from error
    if tally is None:
        return 0
    if told := str(left_out):
        print(f"vae score: {told}", file=sys.stderr)
    return _verdict(tally, flags, alarms)


def _settings(flags: _Arguments) -> ScoreSettings:
    """How files are scored; finds wrong flags before a model is opened."""
    from vae.processes import process_count
    from vae.scoring.rows import FORMATS
    from vae.scoring.scorer import ScoreSettings
    from vae.scoring.scores import check_counts

    if not flags.paths:
        raise Stop(EXIT_USAGE, "name at least one image file or folder after the checkpoint.")
    limits = flags.limits
    out = None if flags.out is None else PurePath(flags.out)
    if out is not None and out.suffix not in FORMATS:
        raise Stop(EXIT_USAGE, f"--out must end in one of {', '.join(FORMATS)}, not {out.name!r}.")
    if out is None and process_count() > 1:
        raise Stop(EXIT_USAGE, "several processes need a file for their rows: pass --out.")
    try:
        check_counts(flags.draws, flags.importance_samples, flags.seed)
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    return ScoreSettings(
        adaptation=flags.adaptation,
        limits=limits,
        draws=flags.draws,
        importance_samples=flags.importance_samples,
        seed=flags.seed,
        evidence=flags.evidence,
        calibration=flags.calibration,
    )


def _ended(error: OSError, out: str | None) -> Exception:
    """The end of a program whose files couldn't be read, or whose rows couldn't be written."""
    from vae.data.remote import is_url

    if error.errno is None:  # what was named isn't there
        return Stop(EXIT_MISSING, str(error))
    if error.filename != out and is_url(str(error.filename)):
        return Stop(EXIT_MISSING, f"cannot read {error.filename!r}: {error.strerror.rstrip('.')}.")
    return error if out is None else unwritable(out, error, " What is finished is kept.")


def _gate(loaded: Checkpoint, flags: _Arguments) -> FalseAlarms | None:
    """What the gate costs; finds a wrong threshold or calibration set before anything is read."""
    from vae.scoring.calibration_sets import calibration_of, calibration_set
    from vae.store.contents import CheckpointError

    try:
        compared = calibration_of(loaded, flags.calibration)
        if flags.calibration is not None:
            run = loaded.card.run
            made = calibration_set(loaded, flags.calibration).adaptation.as_trained(run)
            if made != flags.adaptation.as_trained(run):
                print(
                    f"vae score: the calibration set {flags.calibration!r} was made with --invert "
                    f"{made.invert} --crop {made.crop} --fit {made.fit} --bits {made.bits}; other "
                    "choices make its p-values unfair.",
                    file=sys.stderr,
                )
        if flags.fail_below is None:
            return None
        return compared.false_alarms(flags.fail_below)
    except CheckpointError as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    except ValueError as error:
        raise Stop(EXIT_USAGE, f"--fail-below: {error}") from error


def _workers(flags: _Arguments) -> int | None:
    """The processes that decode; none where that is left to the number of files."""
    from vae.data.images.many import usual_workers
    from vae.processes import process_count, processes_here

    if flags.workers is None and process_count() > 1:
        return usual_workers(processes_here())
    return flags.workers


def _to_screen(
    loaded: Checkpoint, flags: _Arguments, settings: ScoreSettings, files: Iterator[ImageFile]
) -> Tally:
    """Prints rows as they are made."""
    from vae.scoring.files import score_files
    from vae.scoring.parts import Tally
    from vae.scoring.rows import json_pieces

    tally = Tally()
    with _progress(flags) as bar:
        parts = score_files(loaded, files, settings, workers=_workers(flags))
        rows = _counted(parts, tally, bar)
        pieces = map(bytes.decode, json_pieces(rows)) if flags.json else _table(rows)
        for piece in pieces:
            print(piece, end="")
    return tally


def _counted(parts: Iterator[ScoredPart], tally: Tally, bar: tqdm) -> Iterator[list[ScoreRow]]:
    """The rows of each part, counted when they have been printed."""
    for part in parts:
        yield part.rows
        names, p_values = [row.name for row in part.rows], [row.p_value for row in part.rows]
        tally.count(names, p_values, part.steps)
        bar.update(len(part.rows))


def _to_file(
    loaded: Checkpoint,
    flags: _Arguments,
    settings: ScoreSettings,
    files: Iterator[ImageFile],
    processes: Processes,
) -> Tally | None:
    """Writes rows part by part, and makes one file of them; the first process tells of it."""
    from vae.data.remote import place, reached
    from vae.scoring.files import part_size, score_parts
    from vae.scoring.parts import FilesChanged, Occupied, Parts

    parts = Parts(place(flags.out), _job(loaded, flags, settings), loaded.latent_dim)
    share = _Share(files, part_size(loaded), parts, processes)
    try:
        with reached(flags.out, NotImplementedError), _progress(flags) as bar:
            if processes.leads:
                parts.open(flags.restart)
            processes.from_leader(None)  # the folder of parts is there
            for part in score_parts(
                loaded, share.unfinished(bar), settings, workers=_workers(flags)
            ):
                parts.put(part)
                bar.update(len(part.rows))
            if share.finished:
                print(f"vae score: went on after {share.finished} finished rows.", file=sys.stderr)
            processes.from_leader(None)  # everybody's parts are there
            return parts.finish(share.names) if processes.leads else None
    except Occupied as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    except FilesChanged as error:
        raise Stop(EXIT_IO, str(error)) from error
    except KeyboardInterrupt:
        raise Stop(130, "interrupted; the same command goes on from here.") from None
    finally:
        parts.close()


@dataclass
class _Share:
    """What one of several processes has to do.

    Attributes:
        files: All files.
        size: How many of them make a part.
        parts: Where finished parts are.
        processes: The processes that share the parts.
        names: The digest of the names of each part that was listed, whoever scores it.
        finished: The number of rows that were there before.
    """

    files: Iterator[ImageFile]
    size: int
    parts: Parts
    processes: Processes
    names: list[str] = field(default_factory=list)
    finished: int = 0

    def unfinished(self, bar: tqdm) -> Iterator[tuple[int, list[ImageFile]]]:
        """The number and files of each part that this process is to score."""
        from vae.data.images.listing import chunks_of
        from vae.scoring.parts import names_digest

        for number, files in enumerate(chunks_of(self.files, self.size)):
            self.names.append(names_digest(files))
            if number % self.processes.count != self.processes.rank:
                continue
            if rows := self.parts.finished(number, files):
                self.finished += rows
                bar.update(rows)
            else:
                yield number, files


def _job(loaded: Checkpoint, flags: _Arguments, settings: ScoreSettings) -> dict:
    """Everything besides the files that the rows depend on."""
    from hashlib import sha256

    import torch

    import vae
    from vae.data.remote import is_url
    from vae.scoring.calibration_sets import calibration_of
    from vae.scoring.files import part_size

    compared = calibration_of(loaded, flags.calibration)
    return {
        "elboscope": vae.__version__,
        "torch": torch.__version__,
        "model": loaded.name,
        "weights": loaded.weights_sha256,
        "files a part": part_size(loaded),
        "paths": [path if is_url(path) else os.path.abspath(path) for path in flags.paths],
        **asdict(settings),
        "calibration ELBOs": sha256(compared.elbo.tobytes()).hexdigest(),
    }


def _verdict(tally: Tally, flags: _Arguments, alarms: FalseAlarms | None) -> int:
    """Tells what came of it on standard error; returns the exit code."""
    from vae.data.images.many import steps_told

    if told := steps_told(tally.steps):
        print(f"vae score: images adapted to the model: {told}.", file=sys.stderr)
    if tally.refused:
        refused = f"{tally.refused} of {tally.images} images were refused"
        print(f"vae score: {refused}.", file=sys.stderr)
    failed = bool(tally.refused and flags.strict)
    if alarms is not None:
        print(f"vae score: {_gate_text(tally, flags.fail_below, alarms)}", file=sys.stderr)
        failed |= tally.flagged(flags.fail_below) > 0
    return EXIT_REFUSED if failed else 0


def _gate_text(tally: Tally, threshold: float, alarms: FalseAlarms) -> str:
    flagged, scored = tally.flagged(threshold), tally.images - tally.refused
    low, middle, high = (f"{scored * rate:.1f}" for rate in (alarms.low, alarms.rate, alarms.high))
    worst = [f"{_shown(name)} ({p:.3g})" for p, name in tally.lowest if p <= threshold]
    more = ", ..." if flagged > len(worst) else ""
    return (
        f"{flagged} of {scored} images have a p-value of {threshold:g} or less"
        + (f": {', '.join(worst)}{more}" if worst else "")
        + f". Of {scored} normal images expect {middle} false alarms (95 %: {low} to {high}), a "
        f"rate of {100 * alarms.rate:.2f} % ({100 * alarms.low:.2f} to {100 * alarms.high:.2f}); "
        f"the smallest rate that the calibration set supports is {100 * alarms.smallest:.2f} %."
    )


def _progress(flags: _Arguments) -> tqdm:
    from tqdm import tqdm

    from vae.data.images.listing import image_files
    from vae.data.remote import is_url
    from vae.processes import process_count

    shown = sys.stderr.isatty()
    # Counted first, for the share that is done; it costs a microsecond or two a file on a disk.
    counted = shown and process_count() == 1 and not any(map(is_url, flags.paths))
    total = sum(1 for _ in image_files(flags.paths)) if counted else None
    return tqdm(total=total, disable=not shown, unit="image", file=sys.stderr, smoothing=0.05)


def _table(parts: Iterable[Sequence[ScoreRow]]) -> Iterator[str]:
    """Rows for people, line by line; the first part says how wide the names are."""
    from vae.data.images.listing import shortened
    from vae.figures.frame import error_text

    width = 0
    for rows in parts:
        if not width:
            width = min(48, max(len(row.name) for row in rows))
            numbers = f"{'ELBO':>12}  {'±':>8}  {'KL':>9}  {'percentile':>10}  p-value"
            yield f"{'name':<{width}}  {numbers}\n"
        for row in rows:
            name = shortened(_shown(row.name), width)
            numbers = f"refused: {row.error} ({row.error_code})"
            if row.error is None:
                numbers = (
                    f"{row.elbo:>12.4f}  {error_text(row.elbo_uncertainty, 4):>8}  "
                    f"{row.kl:>9.4f}  {row.percentile:>9.1f}%  {row.p_value:.3f}"
                )
            yield f"{name:<{width}}  {numbers}\n"


def _shown(name: str) -> str:
    """A file's name without whatever would drive a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)
