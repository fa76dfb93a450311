r"""What a data set is: its images by index, and three fixed splits.

Every data set has three disjoint splits, fixed once and recorded by index in the checkpoint:
*train* fits the weights, *validation* chooses between them, and *calibration* is touched by
nothing but percentiles, p-values and thresholds, which is what makes those valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Any, NamedTuple

import numpy as np

from vae.data.spec import ImageSpec

__all__ = [
    "AS_USUAL",
    "Copies",
    "DataMissing",
    "ImageData",
    "Reading",
    "Splits",
    "copies_of",
    "first_equal",
    "held_out_sizes",
    "label_text",
    "same_images",
    "shuffled",
    "split_indices",
    "split_parts",
]

_READ_AT_ONCE = 1_000


class DataMissing(ValueError):
    """Raised when a data set isn't there; the message says what to do."""


class Splits(NamedTuple):
    """Disjoint indices into a data set, each ``int64`` with shape :math:`(N,)`."""

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray


@dataclass(frozen=True)
class ImageData:
    """Holds a data set: its specification, splits and a way to read images by index.

    Args:
        name: The name that opens it again, such as ``"digits"``.
        spec: The shape and levels of its images.
        splits: The three fixed splits.
        read: Maps indices :math:`(N,)` to levels ``uint8`` :math:`(N, C, H, W)`.
        labels_of: Maps indices :math:`(N,)` to class labels ``int64`` :math:`(N,)`.
        label_names: The names of the classes; empty where the data have no labels.
        embeds: Whether licence and size allow the images to travel inside a checkpoint.
        test: Indices of the set's own test images, ``int64`` :math:`(N,)`; empty where it has
            none. Never among the training images.
        validation_chooses: Whether validation may choose between weights; not where its images
            are test images.
        digest: What identifies the decoded images and their order, whatever files they came from;
            empty where nobody has asked.
    """

    name: str
    spec: ImageSpec
    splits: Splits
    read: Callable[[np.ndarray], np.ndarray]
    labels_of: Callable[[np.ndarray], np.ndarray]
    label_names: tuple[str, ...]
    embeds: bool = False
    test: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    validation_chooses: bool = True
    digest: str = ""

    def facts(self) -> dict[str, Any]:
        """What a checkpoint records of its data, as JSON values."""
        parts = self.splits._asdict() | ({"test": self.test} if len(self.test) else {})
        return {
            "name": self.name,
            "label_names": list(self.label_names),
            "splits": {
                name: {"images": len(indices), "sha256": sha256(indices.tobytes()).hexdigest()}
                for name, indices in parts.items()
            },
            "count": len(np.unique(np.concatenate(list(parts.values())))),
            **({"digest": self.digest} if self.digest else {}),
        }


def same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets, as :meth:`ImageData.facts` records them, hold the same images.

    In the same order and splits; where they lie, and what they are called, is no matter. Where a
    checkpoint of an older version recorded no digest, the name of the set stands for all that.
    """
    known = "digest" in one and "digest" in other
    keys = ("digest", "splits") if known else ("name",)
    return all(one.get(key) == other.get(key) for key in keys)


class Copies(NamedTuple):
    """How many images of a split have the levels of an image that should be strange to it.

    Attributes:
        validation: Validation images that equal a training image.
        calibration: Calibration images that equal a training or validation image.
        test: Test images that equal a training image.
    """

    validation: int
    calibration: int
    test: int


def copies_of(data: ImageData) -> Copies:
    """Counts copies across the splits, to the last level."""
    train, validation, calibration = data.splits
    indices = np.concatenate([train, validation, calibration, data.test])
    first = first_equal(data.read, indices)
    # The place among `indices` of a split's first image, and of the one after its last.
    v, c, t = (len(train) + n for n in (0, len(validation), len(validation) + len(calibration)))
    return Copies(
        validation=int((first[v:c] < v).sum()),
        calibration=int((first[c:t] < c).sum()),
        test=int((first[t:] < v).sum()),
    )


def first_equal(read: Callable[[np.ndarray], np.ndarray], indices: np.ndarray) -> np.ndarray:
    """For each image the place of the first with the same levels, its own where there is none.

    Args:
        read: Maps indices to levels, as of :class:`ImageData`.
        indices: Which images, with shape (N,).

    Returns:
        Places in ``indices``, ``int64`` with shape (N,).
    """
    seen: dict[bytes, int] = {}
    first = np.empty(len(indices), np.int64)
    for start in range(0, len(indices), _READ_AT_ONCE):
        for place, levels in enumerate(read(indices[start : start + _READ_AT_ONCE]), start):
            key = blake2b(np.ascontiguousarray(levels), digest_size=16).digest()
            first[place] = seen.setdefault(key, place)
    return first


class Reading(NamedTuple):
    """How the files of a folder become a set; see :class:`vae.data.images.adaptation.Adaptation`.

    Attributes:
        fit: How other proportions are brought to those that are wanted.
        bits: The bits that the greys of 16-bit files have.
        allow_tiff: Whether TIFF files are read too.
        keep_copies_together: Whether images with equal levels come into one split.
    """

    fit: str = "pad"
    bits: str = "16"
    allow_tiff: bool = False
    keep_copies_together: bool = False

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Reading:
        """As a training run's config says; older ones say nothing."""
        return cls(**{name: run[name] for name in cls._fields if name in run})


AS_USUAL = Reading()


def shuffled(count: int, seed: int) -> np.ndarray:
    """Permutes ``0..count-1`` by sorting SplitMix64 hashes (Steele et al. 2014).

    A library generator's stream may change between versions; a split must not.
    """
    with np.errstate(over="ignore"):
        v = np.arange(count, dtype=np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        v = v ^ (v >> np.uint64(31))
    return np.argsort(v, kind="stable").astype(np.int64)


def held_out_sizes(count: int) -> tuple[int, int]:
    """How many of so many images validate and calibrate.

    999 calibration images resolve p-values to 0.001; a small set gives a quarter of itself.
    """
    return min(1_000, count // 10), min(999, count // 4)


def split_indices(order: np.ndarray, validation: int, calibration: int) -> Splits:
    """Cuts shuffled indices into validation, calibration and the rest for training.

    The held-out ones stay shuffled, so that leafing through them shows all kinds of images.
    """
    cut = validation + calibration
    return Splits(
        train=np.sort(order[cut:]),
        validation=order[:validation],
        calibration=order[validation:cut],
    )


def split_parts(train: int, validation: int, test: int) -> tuple[Splits, np.ndarray]:
    """The splits of a set that brings a test part, and perhaps a validation part, of its own.

    Args:
        train: The number of images of its training part, which come first.
        validation: The number of those of its validation part, which come next, or 0. They are
            what validation and calibration images are taken from; else training images are.
        test: The number of those of its test part, which come last.

    Returns:
        The three splits, and the indices of the test part, which is in none of them.
    """
    first = train + validation
    tests = np.arange(first, first + test)
    if not validation:
        return split_indices(shuffled(train, seed=0), *held_out_sizes(train)), tests
    chooses = min(1_000, validation // 3)
    order = train + shuffled(validation, seed=0)
    held = split_indices(order, chooses, min(999, validation - chooses))
    return held._replace(train=np.arange(train)), tests


def label_text(label: int, label_names: Sequence[str]) -> str:
    """Names a class label; ``"unlabelled"`` where the data have none."""
    return label_names[label] if 0 <= label < len(label_names) else "unlabelled"
