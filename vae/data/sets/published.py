r"""Published data sets, read by torchvision and decoded once into the cache.

Files lie in ``$ELBOSCOPE_DATA``, else in ``~/.cache/elboscope/data``, in torchvision's layout.
Nothing is downloaded unless :func:`vae.data.sets.download.download` is called. Images are numbered
training part first (of CelebA: training, then validation part), test part last.

CIFAR-10's files are pickles; torchvision compares each with its published MD5 before opening it.
"""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae.data.images.decoding import Raster
from vae.data.sets.cache import CacheUnwritable, cache_home, cached, key_of
from vae.data.sets.file_set import FileSet
from vae.data.sets.image_data import (
    DataMissing,
    ImageData,
    Splits,
    held_out_sizes,
    shuffled,
    split_indices,
    split_parts,
)
from vae.data.spec import ImageSpec

__all__ = ["SETS", "PublishedSet", "data_home", "open_published"]

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_THINGS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_IDX = tuple(
    f"raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_BATCHES = ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_LISTS = (
    "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt",
    "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt",
)  # fmt: skip
_FACES = "img_align_celeba"
# The usual crop of the literature, the face without the backdrop. A photograph to be scored needs
# the same framing.
_FACE_SIDE = 148
_FACE_LABEL = "Smiling"

# What damaged files raise in torchvision's readers.
_DAMAGE = (
    RuntimeError, AssertionError, ValueError, LookupError, TypeError, EOFError, OSError,
    pickle.UnpicklingError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


class Parts(NamedTuple):
    """A set as its files hold it.

    Attributes:
        images: Levels in parts ``uint8`` of shape (n, C, H, W), training part first.
        labels: The class of each image, ``int64`` with shape (N,).
        sizes: The number of training, validation and test images.
    """

    images: Iterable[np.ndarray]
    labels: np.ndarray
    sizes: tuple[int, int, int]


@dataclass(frozen=True)
class PublishedSet:
    """Describes a published data set.

    Args:
        title: Its name for people.
        kind: The torchvision class that reads it.
        folder: The folder of its files below :func:`data_home`.
        files: The files that have to be there.
        count: The number of its images.
        megabytes: About how much a download weighs.
        spec: Its images.
        label_names: The names of its classes.
        load: Reads it from a root folder.
        source: Where its files come from.
    """

    title: str
    kind: str
    folder: str
    files: tuple[str, ...]
    count: int
    megabytes: int
    spec: ImageSpec
    label_names: tuple[str, ...]
    load: Callable[[Path, ImageSpec], Parts]
    source: str

    @property
    def home(self) -> Path:
        """The folder of its files."""
        return data_home() / self.folder

    def found(self, name: str) -> Path | None:
        """Where a file lies, packed or not; none where it doesn't."""
        places = [self.home / f"{name}{end}" for end in ("", ".gz", ".zip")]
        return next((place for place in places if place.exists()), None)

    @property
    def missing(self) -> list[str]:
        """Those of its files that aren't there."""
        try:
            return [name for name in self.files if self.found(name) is None]
        except CacheUnwritable:  # no folder in which they could lie
            return list(self.files)


def data_home() -> Path:
    """The folder of downloaded data: ``$ELBOSCOPE_DATA``, else ``data`` in the cache's folder."""
    given = os.environ.get("ELBOSCOPE_DATA")
    return Path(given).expanduser() if given else cache_home() / "data"


def open_published(
    name: str, image_size: tuple[int, int] = (64, 64), channels: int = 3
) -> ImageData:
    """Opens a published data set.

    Args:
        name: A name in ``SETS``, with ``:full`` to train on all of its training images.
        image_size: The height and width in pixels that faces are brought to; the others have
            their own.
        channels: 1 (grey) or 3 (colour), for faces.

    Raises:
        DataMissing: If its files aren't there or are damaged.
        CacheUnwritable: If there is no room for the decoded images.
    """
    base = name.removesuffix(":full")
    published = SETS[base]
    if missing := published.missing:
        some = ", ".join(Path(one).name for one in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        place = (published.home / missing[0]).parent
        raise DataMissing(
            f"{published.title} is not on this machine: run `python -m vae data {base}` to "
            f"download it ({published.megabytes:,} MB), or put {some}{more} from "
            f"{published.source} into {str(place)!r} (ELBOSCOPE_DATA names another folder than "
            f"{str(data_home())!r})."
        )
    spec = published.spec
    if base == "celeba":
        spec = replace(spec, channels=channels, height=image_size[0], width=image_size[1])
    files = [published.found(one) for one in published.files]
    sources = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    facts: dict = {}

    def decode() -> Iterator[np.ndarray]:
        try:
            parts = published.load(data_home(), spec)
            yield from parts.images
        except (CacheUnwritable, DataMissing):
            raise
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataMissing(
                f"The files of {published.title} in {str(published.home)!r} are damaged or "
                f"incomplete ({reason[:200]}): delete them and run `python -m vae data {base}`."
            ) from error
        labels, sizes = np.asarray(parts.labels), list(parts.sizes)
        if isinstance(parts.images, FileSet) and len(kept := parts.images.kept) < len(labels):
            bounds = np.cumsum([0, *sizes])
            sizes = np.histogram(kept, bins=bounds)[0].tolist()
            labels = labels[kept]
        facts.update(labels=labels.tolist(), sizes=sizes)

    decoded = cached(
        key_of(spec, base, sources), spec, published.title, published.count, decode,
        lambda: facts, source=f"{base}:{published.home}",
    )  # fmt: skip
    labels = np.array(decoded.facts["labels"], dtype=np.int64)
    splits, test = _splits(*decoded.facts["sizes"], full=name != base)
    return ImageData(
        name=name,
        spec=spec,
        splits=splits,
        read=lambda indices: np.asarray(decoded.levels[indices]),
        labels_of=lambda indices: labels[indices],
        label_names=published.label_names,
        test=test,
        validation_chooses=name == base,
        digest=decoded.digest,
    )


def _splits(train: int, validation: int, test: int, full: bool) -> tuple[Splits, np.ndarray]:
    """The three splits, and the indices of the test part."""
    if full:
        first = train + validation
        tests = np.arange(first, first + test)
        held = split_indices(first + shuffled(test, seed=0), *held_out_sizes(test))
        return held._replace(train=np.arange(first)), tests
    # A validation part is the set's own, and its people are in no other part.
    return split_parts(train, validation, test)


def _load_idx(kind: str, root: Path, spec: ImageSpec) -> Parts:
    from torchvision import datasets

    with _unpacked(root, kind) as place:
        both = [getattr(datasets, kind)(place, train=train) for train in (True, False)]
    images = [one.data.numpy()[:, None] for one in both]
    labels = np.concatenate([one.targets.numpy() for one in both]).astype(np.int64)
    return Parts(images, labels, (len(images[0]), 0, len(images[1])))


@contextmanager
def _unpacked(root: Path, kind: str) -> Iterator[Path]:
    """The root for torchvision, which reads no packed files; they may lie where none can write."""
    if all((root / kind / name).exists() for name in _IDX):
        yield root
        return
    with tempfile.TemporaryDirectory() as place:
        for name in _IDX:
            source, target = root / kind / name, Path(place) / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            packed = source.with_name(f"{source.name}.gz")
            with open(source, "rb") if source.exists() else gzip.open(packed) as file:
                with target.open("wb") as out:
                    shutil.copyfileobj(file, out)
        yield Path(place)


def _load_cifar(root: Path, spec: ImageSpec) -> Parts:
    from torchvision.datasets import CIFAR10

    both = [CIFAR10(root, train=train) for train in (True, False)]
    images = [one.data.transpose(0, 3, 1, 2) for one in both]
    labels = np.concatenate([np.array(one.targets, dtype=np.int64) for one in both])
    return Parts(images, labels, (len(images[0]), 0, len(images[1])))


def _load_svhn(root: Path, spec: ImageSpec) -> Parts:
    from torchvision.datasets import SVHN

    both = [SVHN(root, split=split) for split in ("train", "test")]
    labels = np.concatenate([one.labels for one in both]).astype(np.int64)
    return Parts([one.data for one in both], labels, (len(both[0].data), 0, len(both[1].data)))


def _load_faces(root: Path, spec: ImageSpec) -> Parts:
    from torchvision.datasets import CelebA

    home = root / "celeba"
    if not (home / _FACES).is_dir():
        _unzip(home / f"{_FACES}.zip", home / _FACES)
    parts = [CelebA(root, split=split) for split in ("train", "valid", "test")]
    names = [str(home / _FACES / name) for one in parts for name in one.filename]
    column = parts[0].attr_names.index(_FACE_LABEL)
    labels = np.concatenate([one.attr[:, column].numpy() for one in parts]).astype(np.int64)
    sizes = tuple(len(one) for one in parts)
    return Parts(FileSet(names, spec, trim=middle), labels, sizes)


def middle(raster: Raster) -> Raster:
    """Cuts the square of the face out of an aligned CelebA image."""
    h, w, _ = raster.pixels.shape
    side = min(_FACE_SIDE, h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return raster._replace(pixels=raster.pixels[top : top + side, left : left + side])


def _unzip(archive: Path, target: Path) -> None:
    """Unpacks beside the target and renames, so that half an archive never looks whole."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpacking-") as place:
        with zipfile.ZipFile(archive) as file:
            file.extractall(place)
        inner = Path(place) / target.name
        (inner if inner.is_dir() else Path(place)).rename(target)


_GREY = ImageSpec(channels=1, height=28, width=28, levels=256, background=0.0)
_COLOUR = ImageSpec(channels=3, height=32, width=32, levels=256)


def _idx(
    title: str, kind: str, megabytes: int, label_names: tuple[str, ...], source: str
) -> PublishedSet:
    load = partial(_load_idx, kind)
    return PublishedSet(
        title, kind, kind, _IDX, 70_000, megabytes, _GREY, label_names, load, source
    )


SETS: dict[str, PublishedSet] = {
    "mnist": _idx("MNIST", "MNIST", 12, _DIGITS, "ossci-datasets.s3.amazonaws.com/mnist"),
    "fashion_mnist": _idx(
        "Fashion-MNIST",
        "FashionMNIST",
        31,
        _FASHION,
        "github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _idx("Kuzushiji-MNIST", "KMNIST", 21, _KANA, "codh.rois.ac.jp/kmnist"),
    "cifar10": PublishedSet(
        "CIFAR-10",
        "CIFAR10",
        "cifar-10-batches-py",
        _BATCHES,
        60_000,
        170,
        _COLOUR,
        _THINGS,
        _load_cifar,
        "www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": PublishedSet(
        "SVHN",
        "SVHN",
        "",
        ("train_32x32.mat", "test_32x32.mat"),
        99_289,
        246,
        _COLOUR,
        _DIGITS,
        _load_svhn,
        "ufldl.stanford.edu/housenumbers",
    ),
    "celeba": PublishedSet(
        "CelebA",
        "CelebA",
        "celeba",
        (_FACES, *_LISTS),
        202_599,
        1_440,
        ImageSpec(channels=3, height=64, width=64, levels=256),
        ("not smiling", "smiling"),
        _load_faces,
        "mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
}
