r"""A folder of images as a data set: decoded once into a memory-mapped cache.

Labels come from ``labels.csv`` in the folder (columns ``file`` and ``label``), else from the names
of its sub-folders. Where these are ``train`` and ``test`` (or ``val``, ``valid``,
``validation``), they are the parts of the set instead, and classes lie below them. The first use
decodes every file through the same path as an upload; later uses start at once (see
:mod:`vae.data.sets.cache`).
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

from vae.data.images.adaptation import Adaptation
from vae.data.images.listing import LeftOut, shortened, text_of, walk_images
from vae.data.images.many import steps_told
from vae.data.sets.cache import cached, key_of
from vae.data.sets.file_set import FileSet
from vae.data.sets.image_data import (
    AS_USUAL,
    DataMissing,
    ImageData,
    Reading,
    Splits,
    first_equal,
    held_out_sizes,
    shuffled,
    split_indices,
    split_parts,
)
from vae.data.spec import ImageSpec

__all__ = ["LABELS", "open_folder"]

LABELS = "labels.csv"

_FEWEST = 50
# Sub-folders of these names are parts of the set: 0 trains, 1 validates and calibrates, 2 tests.
_PARTS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
_FEWEST_HELD_OUT = 20


def open_folder(
    folder: str, image_size: tuple[int, int], channels: int, reading: Reading = AS_USUAL
) -> ImageData:
    """Opens a folder of images as a data set.

    Args:
        folder: The folder.
        image_size: The height and width in pixels that every image is brought to.
        channels: 1 (grey) or 3 (colour).
        reading: How the files become a set.

    Raises:
        DataMissing: If the folder isn't there, holds too few usable images, or its labels cannot
            be read.
        CacheUnwritable: If there is no room for the decoded images.
    """
    root = _root_of(folder)
    files, parts = _in_parts(_listing(root))
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
    decoding = reading._replace(keep_copies_together=AS_USUAL.keep_copies_together)
    kind = "folder" if decoding == AS_USUAL else f"folder, {decoding}"
    decoded = cached(
        key_of(spec, kind, files),
        spec,
        f"the folder {root.name!r}",
        len(files),
        lambda: decode,
        lambda: {"names": [names[i] for i in decode.kept], "steps": dict(decode.steps)},
        source=f"folder:{root.resolve()}",
    )
    if told := steps_told(decoded.facts.get("steps", {})):
        print(f"images adapted to {width}×{height} pixels: {told}", file=sys.stderr)
    kept = decoded.facts["names"]
    if len(kept) < _FEWEST:
        raise DataMissing(
            f"Only {len(kept)} of the {len(files)} images in {folder!r} can be read, and at least "
            f"{_FEWEST} are needed."
        )
    labels, label_names = _labels(root, kept, below=int(parts is not None))

    def read(indices: np.ndarray) -> np.ndarray:
        return np.asarray(decoded.levels[indices])

    test = np.empty(0, np.int64)
    if parts is not None:
        splits, test = _own_parts(root, kept, parts, reading)
    elif reading.keep_copies_together:
        splits = _splits_of_groups(first_equal(read, np.arange(len(kept))), folder)
    else:
        splits = split_indices(shuffled(len(kept), seed=0), *held_out_sizes(len(kept)))
    return ImageData(
        name=f"folder:{root.resolve()}",
        spec=spec,
        splits=splits,
        read=read,
        labels_of=lambda indices: labels[indices],
        label_names=label_names,
        test=test,
        digest=decoded.digest,
    )


def _root_of(folder: str) -> Path:
    """The folder, once it is known to be there and to have a name that can be recorded."""
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
    return root


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


def _in_parts(
    files: list[tuple[str, int, int]],
) -> tuple[list[tuple[str, int, int]], dict[str, int] | None]:
    """The files in order of their parts, and the part of each sub-folder; none where it has none.

    A sub-folder that is called like a part without being one is said on standard error.
    """
    folders = {name.split(os.sep)[0] if os.sep in name else "" for name, _, _ in files}
    parts = {folder: _PARTS.get(folder.lower(), -1) for folder in folders}
    if 0 in parts.values() and -1 not in parts.values() and len(set(parts.values())) > 1:
        return sorted(files, key=lambda file: parts[file[0].split(os.sep)[0]]), parts
    held = {
        part
        for name, _, _ in files
        for part in name.split(os.sep)[:-1]
        if _PARTS.get(part.lower(), 0) > 0
    }
    if held:
        print(
            f"{', '.join(sorted(held))}: not kept apart as parts of the set, but trained on like "
            "all other images. Only where every sub-folder is one of "
            f"{', '.join(_PARTS)}, one of them is for training, and no image lies beside them, "
            "are they the parts of the set",
            file=sys.stderr,
        )
    return files, None


def _own_parts(
    root: Path, names: Sequence[str], parts: dict[str, int], reading: Reading
) -> tuple[Splits, np.ndarray]:
    """The splits of a set in parts, its test images, and a line on standard error about both."""
    if reading.keep_copies_together:
        raise DataMissing(
            f"{str(root)!r} brings its own split ({', '.join(sorted(parts))}), so copies cannot "
            "be kept together: remove them there, or leave out --keep-copies-together."
        )
    sizes = np.bincount([parts[name.split(os.sep)[0]] for name in names], minlength=3)
    train, validation, test = sizes.tolist()
    if train < _FEWEST or 0 < validation < _FEWEST_HELD_OUT:
        raise DataMissing(
            f"{str(root)!r} holds {train} training and {validation} validation images that can be "
            f"read; at least {_FEWEST} and {_FEWEST_HELD_OUT} are needed (without a validation "
            "folder, training images are held out)."
        )
    where = "validation" if validation else "training"
    print(
        f"{root.name!r} brings its own split of {train} training, {validation} validation and "
        f"{test} test images: held-out images are taken from the {where} images, and test images "
        "are left to `evaluate --split test`",
        file=sys.stderr,
    )
    return split_parts(train, validation, test)


def _splits_of_groups(first: np.ndarray, folder: str) -> Splits:
    """The splits where images that equal each other come into one.

    Args:
        first: For each image the place of the first that equals it, with shape (N,).
        folder: What the folder is called in messages.
    """
    if (distinct := len(np.unique(first))) < _FEWEST:
        raise DataMissing(
            f"Only {distinct} of the {len(first)} images in {folder!r} differ, and at least "
            f"{_FEWEST} are needed."
        )
    groups: dict[int, list[int]] = {}
    for place in shuffled(len(first), seed=0).tolist():
        groups.setdefault(int(first[place]), []).append(place)
    held: list[list[int]] = []
    for size in held_out_sizes(len(first)):
        split: list[int] = []
        # The first groups that fit; where no image has a copy, the usual splits.
        for key, group in list(groups.items()):
            if len(split) + len(group) <= size:
                split += groups.pop(key)
            if len(split) == size:
                break
        held.append(split)
    train = np.sort(np.array([place for group in groups.values() for place in group], np.int64))
    return Splits(train, *(np.array(split, np.int64) for split in held))


def _labels(root: Path, names: Sequence[str], below: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each image, -1 for none, with shape (N,), and the names of the classes.

    Args:
        root: The folder.
        names: The images' paths below it.
        below: How many folders of these paths name no class.
    """
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
        folders = [name.split(os.sep)[below:-1] for name in names]
        texts = [some[0] if some else "" for some in folders]
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
