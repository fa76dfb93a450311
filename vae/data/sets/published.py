r"""Published data sets: a table of six, read by torchvision and decoded once into the cache.

Files lie in ``$ELBOSCOPE_DATA``, else in ``~/.cache/elboscope/data``, in torchvision's layout.
Nothing is downloaded unless :func:`vae.data.sets.download.download` is called. Images are numbered
training part first (of CelebA: training, then validation part), test part last.

CIFAR-10's files are pickles; torchvision compares each with its published MD5 before opening it.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.disk import temporary_folder
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

# What damaged files raise in torchvision's readers.
_DAMAGE = (
    RuntimeError, AssertionError, ValueError, LookupError, TypeError, EOFError, OSError,
    pickle.UnpicklingError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip

# The images of a set in parts of shape (n, C, H, W), and the labels of its training, perhaps
# validation, and test part.
_Loaded = tuple[Iterable[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """Describes a published data set.

    Args:
        title: Its name for people.
        reader: The torchvision class that reads and downloads it.
        parts: What that class is given for the training, perhaps validation, and test part.
        folder: The folder of its files below :func:`data_home`.
        files: The files that have to be there.
        count: The number of its images.
        megabytes: About how much a download weighs.
        spec: Its images.
        label_names: The names of its classes.
        load: Reads its files.
        source: Where its files come from.
    """

    title: str
    reader: str
    parts: tuple[dict[str, Any], ...]
    folder: str
    files: tuple[str, ...]
    count: int
    megabytes: int
    spec: ImageSpec
    label_names: tuple[str, ...]
    load: Callable[[PublishedSet, ImageSpec], _Loaded]
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

    def read(self, root: Path, download: bool = False) -> list[Any]:
        """Its parts as torchvision's data sets."""
        from torchvision import datasets

        reader = getattr(datasets, self.reader)
        return [reader(root, download=download, **part) for part in self.parts]


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
            images, labels = published.load(published, spec)
            yield from images
        except (CacheUnwritable, DataMissing):
            raise
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataMissing(
                f"The files of {published.title} in {str(published.home)!r} are damaged or "
                f"incomplete ({reason[:200]}): delete them and run `python -m vae data {base}`."
            ) from error
        facts.update(_facts(images, labels))

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


def _facts(images: Iterable[np.ndarray], parts: list[np.ndarray]) -> dict[str, list[int]]:
    """The label of each image, and the number of training, validation and test images."""
    train, *validation, test = map(len, parts)
    sizes, labels = [train, sum(validation), test], np.concatenate(parts)
    if isinstance(images, FileSet):  # damaged files are left out
        sizes = np.histogram(images.kept, bins=np.cumsum([0, *sizes]))[0].tolist()
        labels = labels[images.kept]
    return {"labels": labels.tolist(), "sizes": sizes}


def _splits(train: int, validation: int, test: int, full: bool) -> tuple[Splits, np.ndarray]:
    """The three splits, and the indices of the test part."""
    if full:
        first = train + validation
        tests = np.arange(first, first + test)
        held = split_indices(first + shuffled(test, seed=0), *held_out_sizes(test))
        return held._replace(train=np.arange(first)), tests
    # A validation part is the set's own, and its people are in no other part.
    return split_parts(train, validation, test)


def _load_idx(published: PublishedSet, spec: ImageSpec) -> _Loaded:
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import extract_archive

    # Elsewhere: packed files may lie where none can write.
    with tempfile.TemporaryDirectory() as place:
        paths = [
            extract_archive(path, place) if path.suffix == ".gz" else path
            for path in map(published.found, published.files)
        ]
        images = [read_image_file(path).numpy()[:, None] for path in paths[::2]]
        return images, [read_label_file(path).numpy() for path in paths[1::2]]


def _load_cifar(published: PublishedSet, spec: ImageSpec) -> _Loaded:
    parts = published.read(data_home())
    images = [part.data.transpose(0, 3, 1, 2) for part in parts]
    return images, [np.array(part.targets) for part in parts]


def _load_svhn(published: PublishedSet, spec: ImageSpec) -> _Loaded:
    parts = published.read(data_home())
    return [part.data for part in parts], [part.labels for part in parts]


def _load_faces(published: PublishedSet, spec: ImageSpec) -> _Loaded:
    from torchvision.datasets.utils import extract_archive

    faces = published.home / _FACES
    if not faces.is_dir():
        # Half an archive must never look whole.
        with temporary_folder(published.home, ".unpacking-") as place:
            extract_archive(published.found(_FACES), place)
            (place / _FACES).rename(faces)
    parts = published.read(data_home())
    names = [str(faces / name) for part in parts for name in part.filename]
    column = parts[0].attr_names.index(_FACE_LABEL)
    return FileSet(names, spec, trim=face_square), [part.attr[:, column].numpy() for part in parts]


def face_square(raster: Raster) -> Raster:
    """Cuts the square of the face out of an aligned CelebA image."""
    h, w, _ = raster.pixels.shape
    side = min(_FACE_SIDE, h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return raster._replace(pixels=raster.pixels[top : top + side, left : left + side])


_FACES = "img_align_celeba"
# The usual crop of the literature, the face without the backdrop. A photograph to be scored needs
# the same framing.
_FACE_SIDE = 148
_FACE_LABEL = "Smiling"

_DIGITS = tuple("0123456789")
_COLOUR = ImageSpec(channels=3, height=32, width=32, levels=256)
_TRAIN_AND_TEST = ({"train": True}, {"train": False})

_mnist_like = partial(
    PublishedSet,
    parts=_TRAIN_AND_TEST,
    files=(
        "raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte",
        "raw/t10k-images-idx3-ubyte", "raw/t10k-labels-idx1-ubyte",
    ),
    count=70_000,
    spec=ImageSpec(channels=1, height=28, width=28, levels=256, background=0.0),
    load=_load_idx,
)  # fmt: skip

SETS: dict[str, PublishedSet] = {
    "mnist": _mnist_like(
        title="MNIST", reader="MNIST", folder="MNIST", megabytes=12, label_names=_DIGITS,
        source="ossci-datasets.s3.amazonaws.com/mnist",
    ),
    "fashion_mnist": _mnist_like(
        title="Fashion-MNIST", reader="FashionMNIST", folder="FashionMNIST", megabytes=31,
        label_names=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
            "Bag", "Ankle boot",
        ),
        source="github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _mnist_like(
        title="Kuzushiji-MNIST", reader="KMNIST", folder="KMNIST", megabytes=21,
        label_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        source="codh.rois.ac.jp/kmnist",
    ),
    "cifar10": PublishedSet(
        title="CIFAR-10", reader="CIFAR10", parts=_TRAIN_AND_TEST, folder="cifar-10-batches-py",
        files=("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
        count=60_000, megabytes=170, spec=_COLOUR,
        label_names=(
            "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
            "truck",
        ),
        load=_load_cifar, source="www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": PublishedSet(
        title="SVHN", reader="SVHN", parts=({"split": "train"}, {"split": "test"}), folder="",
        files=("train_32x32.mat", "test_32x32.mat"),
        count=99_289, megabytes=246, spec=_COLOUR, label_names=_DIGITS,
        load=_load_svhn, source="ufldl.stanford.edu/housenumbers",
    ),
    "celeba": PublishedSet(
        title="CelebA", reader="CelebA", folder="celeba",
        parts=({"split": "train"}, {"split": "valid"}, {"split": "test"}),
        files=(
            _FACES, "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt",
            "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt",
        ),
        count=202_599, megabytes=1_440,
        spec=ImageSpec(channels=3, height=64, width=64, levels=256),
        label_names=("not smiling", "smiling"),
        load=_load_faces, source="mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
}  # fmt: skip
