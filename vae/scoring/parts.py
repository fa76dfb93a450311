"""Rows that survive: finished parts lie beside the file that they will make, until it is whole.

A part is a Parquet file that is there or not at every instant. The metadata of its schema hold the
run's settings, a digest of its files' sizes and times, and what adapting them took. A run that was
cut short, by whatever, is gone on with by the same command: parts whose files are as they were are
taken as they are. The parts make one file, which so has the same bytes however often the run was
interrupted and however many processes shared it.
"""

from __future__ import annotations

import glob
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vae.data.disk import locked, sweep
from vae.data.images.listing import ImageFile
from vae.data.remote import is_url, remove, replaced
from vae.scoring.files import ScoredPart
from vae.scoring.rows import table_of, write_tables

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FilesChanged", "Occupied", "Parts", "Tally", "names_digest"]

_LOWEST = 5
_HEAD, _KEYS = b"elboscope", {"settings", "stamps", "steps"}


class Occupied(ValueError):
    """Raised where another run is in the way: at work, or unfinished and of other settings."""


class FilesChanged(ValueError):
    """Raised where the files aren't those that were scored."""


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

    images: int = 0
    refused: int = 0
    p_values: Counter[float] = field(default_factory=Counter)
    lowest: list[tuple[float, str]] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)

    def count(
        self, names: Sequence[str], p_values: Sequence[float | None], steps: Mapping[str, int]
    ) -> None:
        """Counts rows, given some of their columns; a refused file has no p-value."""
        scored = [(p, name) for p, name in zip(p_values, names, strict=True) if p is not None]
        self.images += len(names)
        self.refused += len(names) - len(scored)
        self.p_values.update(p for p, _ in scored)
        self.lowest = sorted(self.lowest + scored)[:_LOWEST]
        self.steps.update(steps)

    def flagged(self, p_value: float) -> int:
        """The number of images with a p-value at or below a threshold."""
        return sum(count for p, count in self.p_values.items() if p <= p_value)


class Parts:
    """The finished parts of one file of rows.

    Args:
        out: The file to make; its suffix says the format.
        settings: Everything besides the files that the rows depend on, as JSON values.
        dims: The number of latent dimensions, which have columns of their own in CSV.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], dims: int) -> None:
        self.out, self.dims = out, dims
        self.folder = out.with_name(f".{out.name}.parts")
        self._settings = json.loads(json.dumps(settings))
        self._lock: BinaryIO | None = None

    def open(self, restart: bool = False) -> None:
        """Makes the folder of parts, or takes up what an interrupted run has left.

        Args:
            restart: Whether to drop what was left.

        Raises:
            Occupied: If it was begun with other settings, or another process is at work on it.
            OSError: If the disk refuses.
        """
        if self.out.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(self.out))
        self._occupy()
        left = sorted(self.folder.glob("*.part*"))
        if restart:
            for path in left:
                path.unlink()
            return
        heads = (found[0] for path in left if (found := _read(path)) is not None)
        before = next((head["settings"] for head in heads), self._settings)
        if before != self._settings:
            self.close()
            raise Occupied(
                f"an unfinished run for {self.out.name!r} was begun with "
                f"{_differences(before, self._settings)}; "
                "give the same settings, or pass --restart to begin anew."
            )

    def close(self) -> None:
        """Lets other processes at the parts."""
        if self._lock is not None:
            self._lock.close()

    def finished(self, number: int, files: Sequence[ImageFile]) -> int:
        """The number of a finished part's rows; 0 where it is missing or its files changed."""
        head, table = self._find(number, names_digest(files))
        stamps = _digest(map(_stamp, files))
        return len(table) if head is not None and head["stamps"] == stamps else 0

    def put(self, part: ScoredPart) -> None:
        """Stores a part, whole or not at all.

        Raises:
            OSError: If the disk refuses.
        """
        import pyarrow.parquet as pq

        stamps = _digest(part.stamps)
        head = {"settings": self._settings, "stamps": stamps, "steps": part.steps}
        table = table_of(part.rows).replace_schema_metadata({_HEAD: json.dumps(head)})
        # Written once and read once: what makes it smaller costs more than it saves.
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        sink = io.BytesIO()
        pq.write_table(table, sink, write_page_checksum=True, **plain)
        _write(self._path(part.number), sink.getvalue())

    def finish(self, names: Sequence[str]) -> Tally:
        """Makes the file of all parts, whole or not at all, and removes them.

        Args:
            names: The digest of the names of each part's files; see :func:`names_digest`.

        Returns:
            What the rows come to.

        Raises:
            FilesChanged: If a part isn't there, or of other files.
            OSError: If the disk refuses; what stood there before stands there still.
        """
        tally = Tally()

        def tables() -> Iterator[pyarrow.Table]:
            for number, digest in enumerate(names):
                head, table = self._find(number, digest)
                if head is None:
                    raise FilesChanged(
                        "the files changed while they were scored; run the same command again."
                    )
                columns = (table[name].to_pylist() for name in ("name", "p_value"))
                tally.count(*columns, head["steps"])
                yield table

        with replaced(self.out) as file:
            write_tables(file, self.out.suffix, tables(), self.dims)
        remove(self.folder)
        self.close()
        return tally

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.part"

    def _find(self, number: int, names: str) -> tuple[dict[str, Any] | None, pyarrow.Table | None]:
        """A part's head and rows; none where it is missing, or of other settings or names."""
        head, table = _read(self._path(number)) or (None, None)
        if head is None or head["settings"] != self._settings:
            return None, None
        return (head, table) if _digest(table["name"].to_pylist()) == names else (None, None)

    def _occupy(self) -> None:
        if is_url(str(self.out)):
            # Keeps this machine's processes apart; those of others never mix rows either.
            name = f"elboscope-{os.getuid()}-{_digest([str(self.out)])}.lock"
            lock = Path(tempfile.gettempdir(), name)
        else:
            self.folder.mkdir(exist_ok=True)
            lock = self.folder / "lock"
            # Of a run that was ended while it made the file.
            sweep(self.out.parent, f".{glob.escape(self.out.name)}.tmp-*")
        try:
            self._lock = locked(lock)
        except BlockingIOError:
            raise Occupied(
                f"another process is making {self.out.name!r}; wait for it, or choose another "
                "name for --out."
            ) from None


def names_digest(files: Sequence[ImageFile]) -> str:
    """Identifies files by their names and order."""
    return _digest(file.name for file in files)


def _digest(values: Iterable[str | tuple[int, int]]) -> str:
    return blake2b("\0".join(map(str, values)).encode(), digest_size=16).hexdigest()


def _stamp(file: ImageFile) -> tuple[int, int]:
    if file.stamp is not None:
        return file.stamp
    try:
        status = os.stat(file.path)
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in (*before, *now) if before.get(key) != now.get(key)]
    told = [f"{key} {before.get(key)!r}, not {now.get(key)!r}" for key in dict.fromkeys(keys)]
    return " and ".join(told[:3])


def _read(path: Path) -> tuple[dict[str, Any], pyarrow.Table] | None:
    """A part's head and rows; none where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        # A machine that lost its power may have kept the name and lost the rows.
        source = pa.BufferReader(content)
        table = pq.read_table(source, page_checksum_verification=True, use_threads=False)
        head = json.loads(table.schema.metadata[_HEAD])
        return (head, table.replace_schema_metadata()) if head.keys() >= _KEYS else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _write(path: Path, content: bytes) -> None:
    with replaced(path, lasting=False) as file:
        file.write(content)
