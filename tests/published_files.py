"""Small files in the formats in which published data sets come, of the tests' own making."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["TEST", "TRAIN", "write_celeba", "write_cifar", "write_idx", "write_svhn"]

TRAIN, TEST = 200, 60


def write_idx(folder: Path, packed: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The MNIST family's format; returns images (N, 28, 28) and labels (N,), training first."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (TRAIN + TEST, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, TRAIN + TEST, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(TRAIN)), ("t10k", slice(TRAIN, None))):
        for kind, values in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            name = f"{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(head + values.tobytes()))
            else:
                (folder / name).write_bytes(head + values.tobytes())
    return images, labels


def write_cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 3, 32, 32) and labels (N,)."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (TRAIN + TEST, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, TRAIN + TEST)
    folder.mkdir(parents=True)
    parts = [*np.split(np.arange(TRAIN), 5), np.arange(TRAIN, TRAIN + TEST)]
    for name, rows in zip(
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"), parts, strict=True
    ):
        entry = {"data": images[rows].reshape(len(rows), -1), "labels": labels[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return images, labels


def write_svhn(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 3, 32, 32) and labels (N,); the file calls the digit 0 ten."""
    from scipy.io import savemat

    generator = np.random.default_rng(2)
    images = generator.integers(0, 256, (TRAIN + TEST, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, TRAIN + TEST)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        y = np.where(labels[rows] == 0, 10, labels[rows]).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images[rows].transpose(2, 3, 1, 0), "y": y})
    return images, labels


def write_celeba(
    folder: Path, packed: bool, sizes: tuple[int, int, int] = (40, 40, 20)
) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """Faces of one colour with a frame of another; returns colours and whether each smiles."""
    generator = np.random.default_rng(3)
    count = sum(sizes)
    colours = [tuple(map(int, row)) for row in generator.integers(30, 220, (count, 3))]
    smiles = generator.integers(0, 2, count)
    # The parts interleave in the lists, as they need not be in order.
    parts = generator.permutation(np.repeat([0, 1, 2], sizes))
    names = [f"{i + 1:06}.jpg" for i in range(count)]
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    for name, colour in zip(names, colours, strict=True):
        image = Image.new("RGB", (178, 218), (255, 255, 255))
        image.paste(colour, (15, 35, 163, 183))
        image.save(images / name, quality=95)
    head = f"{count}\n5_o_Clock_Shadow Smiling Young \n"
    marks = [f"{name} -1 {2 * smile - 1:>2}  1" for name, smile in zip(names, smiles, strict=True)]
    (folder / "list_attr_celeba.txt").write_text(head + "\n".join(marks) + "\n")
    for name, columns, with_head in (
        ("identity_CelebA.txt", 1, False),
        ("list_bbox_celeba.txt", 4, True),
        ("list_landmarks_align_celeba.txt", 10, True),
    ):
        lines = [f"{count}", " ".join(f"c{i}" for i in range(columns))] if with_head else []
        lines += [f"{one} {' '.join(['7'] * columns)}" for one in names]
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part in zip(names, parts, strict=True))
    )
    if packed:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            for name in names:
                archive.write(images / name, f"img_align_celeba/{name}")
                (images / name).unlink()
        images.rmdir()
    order = np.argsort(parts, kind="stable")
    return [colours[i] for i in order], smiles[order]
