r"""A folder of images as a data set: decoded once into a memory-mapped cache.

Sub-folders name the classes. The first use decodes every file through the same path as an upload
and writes one ``uint8`` array to the cache, so that later uses start at once and a set larger
than memory still trains. The cache is keyed by the files' names, sizes and times.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vae.data.datasets import DataMissing, ImageData, shuffled, split_indices
from vae.data.images import ImageRefused, Limits, preprocess, read_image
from vae.data.listing import walk_images
from vae.data.spec import ImageSpec

__all__ = ["FOLDER_LIMITS", "find_images", "open_folder"]

_FEWEST = 50
# A camera's own files may be large; a visitor's upload may not.
FOLDER_LIMITS = Limits(bytes=64 * 2**20, side=16_384, pixels=64_000_000)


def find_images(folder: Path) -> list[Path]:
    """Lists the image files below a folder, in the order of their names."""
    return [Path(path) for path in walk_images(str(folder))]


def open_folder(folder: str, image_size: int, channels: int) -> ImageData:
    """Opens a folder of images as a data set.

    Args:
        folder: The folder; its sub-folders, if it has any with images, name the classes.
        image_size: The side in pixels that every image is brought to.
        channels: 1 (grey) or 3 (colour).

    Raises:
        DataMissing: If the folder isn't there or holds too few usable images.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataMissing(f"There is no folder {folder!r}; give folder:PATH an existing one.")
    files = find_images(root)
    if len(files) < _FEWEST:
        raise DataMissing(
            f"{folder!r} holds {len(files)} images, and training, validation and calibration "
            f"together need at least {_FEWEST}."
        )
    spec = ImageSpec(channels=channels, height=image_size, width=image_size)
    levels, kept = _cached(root, files, spec)
    if len(kept) < _FEWEST:
        raise DataMissing(
            f"Only {len(kept)} of the {len(files)} images in {folder!r} can be read, and at least "
            f"{_FEWEST} are needed."
        )
    classes = [parts[0] if len(parts := Path(name).parts) > 1 else "" for name in kept]
    label_names = tuple(sorted(set(classes) - {""}))
    number = {name: i for i, name in enumerate(label_names)}
    labels = np.array([number.get(name, -1) for name in classes], dtype=np.int64)
    # 999 calibration images resolve p-values to 0.001; a small folder gives a quarter of itself.
    calibration = min(999, len(kept) // 4)
    return ImageData(
        name=f"folder:{root.resolve()}",
        spec=spec,
        splits=split_indices(
            shuffled(len(kept), seed=0), min(1_000, len(kept) // 10), calibration
        ),
        read=lambda indices: np.asarray(levels[indices]),
        labels_of=lambda indices: labels[indices],
        label_names=label_names,
    )


def _cached(root: Path, files: list[Path], spec: ImageSpec) -> tuple[np.ndarray, list[str]]:
    digest = sha256(repr(spec).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(root)}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    home = os.environ.get("ELBOSCOPE_CACHE") or Path.home() / ".cache" / "elboscope"
    cache = Path(home) / digest.hexdigest()[:32]
    names = cache / "names.json"
    if not names.exists():
        _fill(cache, root, files, spec)
    return np.load(cache / "levels.npy", mmap_mode="r"), json.loads(names.read_text())


def _fill(cache: Path, root: Path, files: list[Path], spec: ImageSpec) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"levels.{os.getpid()}.npy"
    kept: list[str] = []
    out = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), *spec.shape))
    refused = []
    for file in tqdm(files, desc="decoding", unit="image", file=sys.stderr):
        try:
            out[len(kept)] = preprocess(read_image(file.read_bytes(), FOLDER_LIMITS), spec).levels
            kept.append(str(file.relative_to(root)))
        except (ImageRefused, OSError) as error:
            refused.append(f"{file.relative_to(root)}: {error}")
    out.flush()
    del out
    partial.replace(cache / "levels.npy")
    for line in refused[:5]:
        print(f"left out {line}", file=sys.stderr)
    if len(refused) > 5:
        print(f"left out {len(refused) - 5} more", file=sys.stderr)
    # Written last: a cache without its list of names is filled anew.
    temporary = cache / f"names.{os.getpid()}.json"
    temporary.write_text(json.dumps(kept))
    temporary.replace(cache / "names.json")
