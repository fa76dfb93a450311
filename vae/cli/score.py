"""``python -m vae score``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
    from vae.data.images.listing import ImageFile
    from vae.processes import Processes
    from vae.scoring.calibration import FalseAlarms
    from vae.scoring.files import ScoredPart, ScoreSettings
    from vae.scoring.parts import Parts, Tally
    from vae.scoring.rows import ScoreRow
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
        paths: Image files, folders that are searched for them, or patterns such as 'scans/*.png'.
        draws: Draws for the ELBO where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed; an image's noise follows from (seed, image).
        evidence: Also compute the exact log p(x) where the latent space has at most 2 dimensions.
        calibration: Percentiles and p-values against this set of `python -m vae calibrate`,
            instead of the model's own.
        json: Print one JSON document, an array of rows.
        out: Write the rows to a file instead: .csv, .json, .jsonl or .parquet.
        restart: Drop what an interrupted run has left for --out, and begin anew.
        fail_below: End with exit code 1 when an image's p-value is this or less.
        strict: End with exit code 1 when an image was refused.
    """

    checkpoint: tyro.conf.Positional[str]
    paths: tyro.conf.Positional[tuple[Path, ...]]
    draws: int = 64
    importance_samples: int = 0
    seed: int = 0
    evidence: bool = True
    calibration: str | None = None
    json: bool = False
    out: Path | None = None
    restart: bool = False
    fail_below: float | None = None
    strict: bool = False


def score(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.images.listing import LeftOut, image_files
    from vae.processes import joined, process_count
    from vae.scoring.files import ScoreSettings
    from vae.scoring.rows import FORMATS
    from vae.scoring.scores import check_counts

    flags = parse(_Arguments, "score", TEXT + _NOTE, arguments)
    if not flags.paths:
        raise Stop(EXIT_USAGE, "name at least one image file or folder after the checkpoint.")
    limits = flags.limits
    if flags.out is not None and flags.out.suffix not in FORMATS:
        raise Stop(
            EXIT_USAGE, f"--out must end in one of {', '.join(FORMATS)}, not {flags.out.name!r}."
        )
    if flags.out is None and process_count() > 1:
        raise Stop(EXIT_USAGE, "several processes need a file for their rows: pass --out.")
    try:
        check_counts(flags.draws, flags.importance_samples)
    except ValueError as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    loaded = open_checkpoint(flags.checkpoint)
    alarms = _gate(loaded, flags)
    settings = ScoreSettings(
        adaptation=flags.adaptation,
        limits=limits,
        draws=flags.draws,
        importance_samples=flags.importance_samples,
        seed=flags.seed,
        evidence=flags.evidence,
        calibration=flags.calibration,
    )
    left_out = LeftOut()
    try:
        files = image_files(flags.paths, left_out)
        with joined() as processes:
            if flags.out is None:
                tally = _to_screen(loaded, flags, settings, files)
            else:
                tally = _to_file(loaded, flags, settings, files, processes)
    except FileNotFoundError as error:
        if error.errno is not None:
            raise unwritable(flags.out, error) from error
        raise Stop(EXIT_MISSING, str(error)) from error
    if tally is None:
        return 0
    if told := str(left_out):
        print(f"vae score: {told}", file=sys.stderr)
    return _verdict(tally, flags, alarms)


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


def _parts_of(
    loaded: Checkpoint,
    flags: _Arguments,
    settings: ScoreSettings,
    files: Iterator[ImageFile],
    **more: object,
) -> Iterator[ScoredPart]:
    from vae.data.images.many import usual_workers
    from vae.processes import process_count, processes_here
    from vae.scoring.files import score_files

    workers = flags.workers
    if workers is None and process_count() > 1:
        workers = usual_workers(processes_here())
    return score_files(loaded, files, settings, workers=workers, **more)


def _to_screen(
    loaded: Checkpoint, flags: _Arguments, settings: ScoreSettings, files: Iterator[ImageFile]
) -> Tally:
    """Prints rows as they are made."""
    from vae.scoring.parts import Tally
    from vae.scoring.rows import FRAMES, json_part

    tally, frame, width = Tally.of(), FRAMES[".json"](0), 0
    with _progress(flags) as bar:
        for number, part in enumerate(_parts_of(loaded, flags, settings, files)):
            if flags.json:
                text = frame.between if number else frame.start
                print((text + json_part(part.rows)).decode(), end="")
            else:
                width = width or min(48, max(len(row.name) for row in part.rows))
                print(_table(part.rows, width, heading=not number))
            tally.add(Tally.of(part.rows, part.steps))
            bar.update(len(part.rows))
    if flags.json:
        print(frame.end.decode(), end="")
    return tally


def _to_file(
    loaded: Checkpoint,
    flags: _Arguments,
    settings: ScoreSettings,
    listed: Iterator[ImageFile],
    processes: Processes,
) -> Tally | None:
    """Writes rows part by part, and makes one file of them; the first process tells of it."""
    from vae.scoring.parts import Occupied, OtherSettings, Parts, Tally, names_digest

    parts = Parts(flags.out, loaded.config.latent_dim)
    names: list[str] = []
    finished = Tally.of()

    def wanted(number: int, files: list) -> bool:
        names.append(names_digest(files))
        if number % processes.count != processes.rank:
            return False
        tally = parts.has(number, files) if taken_up else None
        if tally is not None:
            finished.add(tally)
            bar.update(tally.images)
        return tally is None

    try:
        taken_up = 0
        if processes.leads:
            taken_up = parts.open(_job(loaded, flags, settings), flags.restart)
        taken_up = processes.from_leader(taken_up)
        with _progress(flags) as bar:
            for part in _parts_of(loaded, flags, settings, listed, wanted=wanted):
                parts.put(part)
                bar.update(len(part.rows))
        if finished.images:
            print(f"vae score: went on after {finished.images} finished rows.", file=sys.stderr)
        processes.from_leader(None)  # everybody's parts are there
        return _finish(parts, names) if processes.leads else None
    except (OtherSettings, Occupied) as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    except KeyboardInterrupt:
        raise Stop(130, "interrupted; the same command goes on from here.") from None
    except OSError as error:
        if error.errno is None:  # what was named isn't there
            raise
        raise unwritable(flags.out, error, " What is finished is kept.") from error
    finally:
        parts.close()


def _finish(parts: Parts, names: list[str]) -> Tally:
    from vae.scoring.parts import Tally

    tally = Tally.of()
    for number, digest in enumerate(names):
        one = parts.tally(number, digest)
        if one is None:
            raise Stop(
                EXIT_IO, "the files changed while they were scored; run the same command again."
            )
        tally.add(one)
    parts.finish(len(names))
    return tally


def _job(loaded: Checkpoint, flags: _Arguments, settings: ScoreSettings) -> dict:
    """Everything besides the files that the rows depend on."""
    from hashlib import sha256

    import torch

    import vae
    from vae.scoring.calibration_sets import calibration_of
    from vae.scoring.files import part_size

    compared = calibration_of(loaded, flags.calibration)
    return {
        "elboscope": vae.__version__,
        "torch": torch.__version__,
        "model": loaded.name,
        "weights": loaded.weights_sha256,
        "files a part": part_size(loaded),
        "paths": [str(path.absolute()) for path in flags.paths],
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


def _progress(flags: _Arguments):  # noqa: ANN202  (tqdm has no types)
    from tqdm import tqdm

    from vae.data.images.listing import image_files
    from vae.processes import process_count

    shown = sys.stderr.isatty()
    # Counted first, for the share that is done; it costs a microsecond or two a file.
    total = sum(1 for _ in image_files(flags.paths)) if shown and process_count() == 1 else None
    return tqdm(total=total, disable=not shown, unit="image", file=sys.stderr, smoothing=0.05)


def _table(rows: Sequence[ScoreRow], width: int, heading: bool) -> str:
    from vae.data.images.listing import shortened
    from vae.figures.frame import error_text

    lines = []
    if heading:
        lines.append(
            f"{'name':<{width}}  {'ELBO':>12}  {'±':>8}  {'KL':>9}  {'percentile':>10}  p-value"
        )
    for row in rows:
        name = shortened(_shown(row.name), width)
        if row.error is not None:
            lines.append(f"{name:<{width}}  refused: {row.error} ({row.error_code})")
        else:
            lines.append(
                f"{name:<{width}}  {row.elbo:>12.4f}  "
                f"{error_text(row.elbo_uncertainty, 4):>8}  {row.kl:>9.4f}  "
                f"{row.percentile:>9.1f}%  {row.p_value:.3f}"
            )
    return "\n".join(lines)


def _shown(name: str) -> str:
    """A file's name without whatever would drive a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)
