"""Rows that survive: finished parts lie beside the file that they will make, until it is whole.

A part is written to a temporary sibling and renamed, so that at every instant it is there or not;
it states the sha256 of its rows, and the names, sizes and times of the files that they are of. A
run that was cut short, by whatever, is gone on with by the same command: parts whose files are as
they were are taken as they are. The parts make one file, which so has the same bytes however
often the run was interrupted and however many processes shared it.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from vae.data.disk import locked, own_mark, sweep
from vae.data.images.listing import ImageFile
from vae.scoring.files import ScoredPart
from vae.scoring.rows import FRAMES, PARTS, ScoreRow, parquet_schema

__all__ = ["Occupied", "OtherSettings", "Parts", "Tally", "names_digest"]

_LOWEST = 5
_PARTS_A_GROUP = 16


class OtherSettings(ValueError):
    """Raised where an unfinished run was begun with other settings; the message names them."""


class Occupied(ValueError):
    """Raised where another process is at work on the same file."""


@dataclass
class Tally:
    """Counts over rows, and what is known of them without keeping them.

    Args:
        images: The number of files.
        refused: The number of files that were refused.
        p_values: How often each p-value occurs.
        lowest: The few lowest p-values with their names, ascending.
        steps: How many images each kind of adaptation step was done to.
    """

    images: int
    refused: int
    p_values: Counter[float]
    lowest: list[tuple[float, str]]
    steps: Counter[str]

    @classmethod
    def of(cls, rows: Sequence[ScoreRow] = (), steps: Mapping[str, int] | None = None) -> Tally:
        """The tally of some rows."""
        scored = [(row.p_value, row.name) for row in rows if row.error is None]
        return cls(
            images=len(rows),
            refused=len(rows) - len(scored),
            p_values=Counter(p for p, _ in scored),
            lowest=sorted(scored)[:_LOWEST],
            steps=Counter(steps or {}),
        )

    def add(self, other: Tally) -> None:
        """Counts another tally's rows too."""
        self.images += other.images
        self.refused += other.refused
        self.p_values.update(other.p_values)
        self.lowest = sorted(self.lowest + other.lowest)[:_LOWEST]
        self.steps.update(other.steps)

    def flagged(self, p_value: float) -> int:
        """The number of images with a p-value at or below a threshold."""
        return sum(count for p, count in self.p_values.items() if p <= p_value)


class Parts:
    """The finished parts of one file of rows.

    Args:
        out: The file to make; its suffix says the format.
        dims: The number of latent dimensions, which have columns of their own in CSV.
    """

    def __init__(self, out: Path, dims: int) -> None:
        self.out, self.dims = out, dims
        self.folder = out.with_name(f".{out.name}.parts")
        self._lock: BinaryIO | None = None

    def open(self, settings: Mapping[str, Any], restart: bool = False) -> int:
        """Makes the folder of parts, or takes up what an interrupted run has left.

        Args:
            settings: Everything besides the files that the rows depend on, as JSON values.
            restart: Whether to drop what was left.

        Returns:
            The number of parts that are there.

        Raises:
            OtherSettings: If it was begun with other settings.
            Occupied: If another process is at work on it.
            OSError: If the disk refuses.
        """
        if self.out.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(self.out))
        self.folder.mkdir(exist_ok=True)
        self._occupy()
        # Of a run that was ended while it made the file.
        sweep(self.out.parent, f".{glob.escape(self.out.name)}.tmp-*")
        job = self.folder / "job.json"
        try:
            before = json.loads(job.read_bytes())
        except (OSError, ValueError):
            before = None
        now = json.loads(json.dumps(settings))
        if before is not None and before != now and not restart:
            self.close()
            raise OtherSettings(
                f"an unfinished run for {self.out.name!r} was begun with "
                f"{_differences(before, now)}; "
                "give the same settings, or pass --restart to begin anew."
            )
        if before is None or restart:
            for path in self.folder.glob("*.part*"):
                path.unlink()
            _write(job, json.dumps(now, indent=1).encode())
        return sum(1 for _ in self.folder.glob("*.part"))

    def close(self) -> None:
        """Lets other processes at the parts."""
        if self._lock is not None:
            self._lock.close()

    def has(self, number: int, files: Sequence[ImageFile]) -> Tally | None:
        """A finished part's tally; none where the part is missing, or its files have changed."""
        found = self._read(number)
        if found is None or found[0]["files"] != _digest(files, map(_stamp, files)):
            return None
        return _tally(found[0])

    def put(self, part: ScoredPart) -> None:
        """Stores a part, whole or not at all.

        Raises:
            OSError: If the disk refuses.
        """
        payload = PARTS[self.out.suffix](part.rows, self.dims)
        tally = Tally.of(part.rows, part.steps)
        head = {
            "names": _digest(part.files),
            "files": _digest(part.files, part.stamps),
            "sha256": sha256(payload).hexdigest(),
            "images": tally.images,
            "refused": tally.refused,
            "p_values": sorted(tally.p_values.items()),
            "lowest": tally.lowest,
            "steps": tally.steps,
        }
        _write(self._path(part.number), json.dumps(head).encode() + b"\n" + payload)

    def tally(self, number: int, names: str) -> Tally | None:
        """What a stored part counts; none where it is missing or of files of other names."""
        found = self._read(number)
        return _tally(found[0]) if found is not None and found[0]["names"] == names else None

    def finish(self, count: int) -> None:
        """Makes the file of its first parts, whole or not at all, and removes them.

        Raises:
            OSError: If the disk refuses; what stood there before stands there still.
        """
        temporary = self.out.with_name(f".{self.out.name}.tmp-{own_mark()}")
        try:
            with temporary.open("wb") as file:
                self._assemble(count, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.out)
        finally:
            temporary.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def _assemble(self, count: int, file: BinaryIO) -> None:
        payloads = (self._payload(number) for number in range(count))
        if self.out.suffix == ".parquet":
            _join_parquet(payloads, file)
            return
        frame = FRAMES[self.out.suffix](self.dims)
        file.write(frame.start)
        for number, payload in enumerate(payloads):
            file.write(frame.between if number else b"")
            file.write(payload)
        file.write(frame.end)

    def _payload(self, number: int) -> bytes:
        found = self._read(number)
        if found is None:
            raise OSError(5, f"part {number} of the rows is gone")
        return found[1]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.part"

    def _read(self, number: int) -> tuple[dict[str, Any], bytes] | None:
        try:
            head, payload = self._path(number).read_bytes().split(b"\n", 1)
            known = json.loads(head)
            # A machine that lost its power may have kept the name and lost the rows.
            return (known, payload) if known["sha256"] == sha256(payload).hexdigest() else None
        except (OSError, ValueError, LookupError):
            return None

    def _occupy(self) -> None:
        try:
            self._lock = locked(self.folder / "lock")
        except BlockingIOError:
            raise Occupied(
                f"another process is making {self.out.name!r}; wait for it, or choose another "
                "name for --out."
            ) from None


def names_digest(files: Sequence[ImageFile]) -> str:
    """Identifies files by their names and order."""
    return _digest(files)


def _digest(files: Sequence[ImageFile], stamps: Iterable[tuple[int, int]] | None = None) -> str:
    digest = blake2b("\0".join([file.name for file in files]).encode(), digest_size=16)
    digest.update(repr(list(stamps or ())).encode())
    return digest.hexdigest()


def _stamp(file: ImageFile) -> tuple[int, int]:
    try:
        status = os.stat(file.path)
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _tally(head: Mapping[str, Any]) -> Tally:
    return Tally(
        images=head["images"],
        refused=head["refused"],
        p_values=Counter(dict(map(tuple, head["p_values"]))),
        lowest=[tuple(one) for one in head["lowest"]],
        steps=Counter(head["steps"]),
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in (*before, *now) if before.get(key) != now.get(key)]
    told = [f"{key} {before.get(key)!r}, not {now.get(key)!r}" for key in dict.fromkeys(keys)]
    return " and ".join(told[:3])


def _join_parquet(payloads: Iterator[bytes], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, parquet_schema()) as writer:
        # Every group of rows costs a little for each column, in writing and in reading.
        while some := list(islice(payloads, _PARTS_A_GROUP)):
            tables = [pa.ipc.open_stream(payload).read_all() for payload in some]
            writer.write_table(pa.concat_tables(tables))


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp-{own_mark()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
