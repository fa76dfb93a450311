r"""A folder of images as a data set: decoded once into a memory-mapped cache.

Labels come from ``labels.csv`` in the folder (columns ``file`` and ``label``), else from the names
of its sub-folders. The first use decodes every file through the same path as an upload; later uses
start at once (see :mod:`vae.data.cache`).
"""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from vae.data.adaptation import Adaptation
from vae.data.bulk import steps_told
from vae.data.cache import cached, key_of
from vae.data.datasets import (
    AS_USUAL,
    DataMissing,
    ImageData,
    Reading,
    held_out_sizes,
    shuffled,
    split_indices,
)
from vae.data.file_set import FileSet
from vae.data.listing import LeftOut, shortened, text_of, walk_images
from vae.data.spec import ImageSpec

__all__ = ["LABELS", "open_folder"]

LABELS = "labels.csv"

_FEWEST = 50


def open_folder(
    folder: str, image_size: tuple[int, int], channels: int, reading: Reading = AS_USUAL
) -> ImageData:
    """Opens a folder of images as a data set.

    Args:
        folder: The folder.
        image_size: The height and width in pixels that every image is brought to.
        channels: 1 (grey) or 3 (colour).
        reading: How the files are read.

    Raises:
        DataMissing: If the folder isn't there, holds too few usable images, or its labels cannot
            be read.
        CacheUnwritable: If there is no room for the decoded images.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataMissing(f"There is no folder {folder!r}; give folder:PATH an existing one.")
    try:
        str(root.resolve()).encode()
    except UnicodeEncodeError:
        raise DataMissing(
            f"The path of the folder {text_of(str(root))!r} is not UTF-8, and a checkpoint could "
            "not record it; rename the folder, or reach it by a link."
        ) from None
    files = _listing(root)
    if len(files) < _FEWEST:
        raise DataMissing(
            f"{folder!r} holds {len(files)} images, and training, validation and calibration "
            f"together need at least {_FEWEST}."
        )
    height, width = image_size
    spec = ImageSpec(channels=channels, height=height, width=width)
    names = [name for name, _, _ in files]
    adaptation = Adaptation(fit=reading.fit, bits=reading.bits)
    paths = [str(root / name) for name in names]
    decode = FileSet(paths, spec, adaptation=adaptation, allow_tiff=reading.allow_tiff)
    # What departs from the usual makes other images of the same files.
    kind = "folder" if reading == AS_USUAL else f"folder, {reading}"
    decoded = cached(
        key_of(spec, kind, files),
        spec,
        f"the folder {root.name!r}",
        len(files),
        lambda: decode,
        lambda: {"names": [names[i] for i in decode.kept], "steps": dict(decode.steps)},
    )
    if told := steps_told(decoded.facts.get("steps", {})):
        print(f"images adapted to {width}×{height} pixels: {told}", file=sys.stderr)
    kept = decoded.facts["names"]
    if len(kept) < _FEWEST:
        raise DataMissing(
            f"Only {len(kept)} of the {len(files)} images in {folder!r} can be read, and at least "
            f"{_FEWEST} are needed."
        )
    labels, label_names = _labels(root, kept)
    return ImageData(
        name=f"folder:{root.resolve()}",
        spec=spec,
        splits=split_indices(shuffled(len(kept), seed=0), *held_out_sizes(len(kept))),
        read=lambda indices: np.asarray(decoded.levels[indices]),
        labels_of=lambda indices: labels[indices],
        label_names=label_names,
        digest=decoded.digest,
    )


def _listing(root: Path) -> list[tuple[str, int, int]]:
    """Name below the folder, size and time of change of every image file, in order of names.

    What is passed over is said on standard error.
    """
    found, lost, passed = [], [], LeftOut()
    for path in walk_images(str(root), passed):
        name, reason = os.path.relpath(path, root), "it is no file, or cannot be read"
        try:
            status = os.stat(path)
        except OSError as error:  # a link that leads nowhere
            status, reason = None, error.strerror
        if status is not None and stat.S_ISREG(status.st_mode):
            found.append((name, status.st_size, status.st_mtime_ns))
        else:
            lost.append(f"{text_of(name)!r} ({reason})")
    if (root / LABELS).is_file():
        passed.others -= Counter({".csv": 1})
    if lost:
        more = f" and {len(lost) - 5:,} more" if len(lost) > 5 else ""
        print(f"cannot be read: {', '.join(lost[:5])}{more}", file=sys.stderr)
    if told := str(passed):
        print(told, file=sys.stderr)
    return found


def _labels(root: Path, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each image, -1 for none, with shape (N,), and the names of the classes."""
    if (root / LABELS).is_file():
        given = _read_labels(root / LABELS)
        texts = [given.get(_plain(name), "") for name in names]
        if not any(texts):
            raise DataMissing(
                f"No file that {str(root / LABELS)!r} names is an image in that folder; its "
                "column 'file' takes paths below the folder, such as cats/1.png."
            )
        if unlabelled := texts.count(""):
            print(f"{LABELS} has no label for {unlabelled} of the images", file=sys.stderr)
    else:
        texts = [parts[0] if len(parts := name.split(os.sep)) > 1 else "" for name in names]
        plain = {text: normalize("NFC", text_of(text)) for text in set(texts)}
        if len(set(plain.values())) < len({normalize("NFC", text) for text in plain}):
            raise DataMissing(
                f"Sub-folders of {str(root)!r} differ in bytes that are not UTF-8 alone, so their "
                "names cannot be told apart; rename them."
            )
        texts = [plain[text] for text in texts]
    distinct = set(texts) - {""}
    numeric = all(text.isdecimal() for text in distinct)
    label_names = tuple(sorted(distinct, key=(lambda text: (int(text), text)) if numeric else str))
    number = {text: i for i, text in enumerate(label_names)}
    return np.array([number.get(text, -1) for text in texts], dtype=np.int64), label_names


def _plain(name: str) -> str:
    """A file's path as a table may write it: with slashes, and letters composed (NFC)."""
    return normalize("NFC", text_of(name).replace("\\", "/")).removeprefix("./")


def _read_labels(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            # Spreadsheets write semicolons where a comma parts decimals.
            separator = max(",;\t", key=first.count)
            file.seek(0)
            reader = csv.DictReader(file, skipinitialspace=True, delimiter=separator)
            if missing := {"file", "label"} - set(reader.fieldnames or ()):
                raise DataMissing(
                    f"{str(path)!r} lacks the column {sorted(missing)[0]!r}: its first line has "
                    "to be file,label (or with semicolons or tabs), not "
                    f"{shortened(first.strip(), 60)!r}."
                )
            return {
                _plain(row["file"].strip()): normalize("NFC", (row["label"] or "").strip())
                for row in reader
                if row["file"]
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataMissing(f"{str(path)!r} cannot be read as CSV in UTF-8: {error}.") from error
