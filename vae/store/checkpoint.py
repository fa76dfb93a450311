r"""A checkpoint: one directory, committed once, that rebuilds its model alone.

``manifest.json`` (config, data set, splits, metrics, a sha256 for every other file),
``model.safetensors`` (weights), ``reference.safetensors`` (per-image statistics of the validation
and calibration images) and ``history.jsonl`` (the training curve). There is no pickle anywhere.

A checkpoint is written to a hidden sibling, flushed to disk, read back, and renamed into place.
Files are read as bytes, never mapped into memory: truncating a mapped file kills its reader.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import Tensor
from torch.distributions import Distribution

from vae.data.disk import create_file, flush_folder
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.likelihoods import LikelihoodFacts
from vae.model.vae import VAE
from vae.store.contents import (
    SPLITS,
    CheckpointError,
    Reference,
    config_from,
    from_json,
    model_from,
    reference_from,
    to_json,
)
from vae.store.placing import (
    aside,
    check_target,
    inode_of,
    is_being_replaced,
    move_into_place,
    recover,
)

__all__ = ["FORMAT", "Checkpoint", "data_title", "load", "read_manifest", "write"]

FORMAT = 1

_FILES = ("model.safetensors", "reference.safetensors", "history.jsonl")
_MAX_BYTES = 512 * 2**20
# The codes by which a fault of the disk shows, rather than one of the model.
_UNREADABLE = ("E-CKPT-01", "E-CKPT-02", "E-CKPT-03", "E-CKPT-04")

# What others read from a manifest without asking: where it stands, and its kind.
_NUMBER = (int, float)
_ENTRIES: dict[tuple[str, ...], type | tuple[type, ...]] = {
    **dict.fromkeys([("model",), ("files",)], dict),
    ("command",): str,
    **{("card", name): str for name in ("title", "description")},
    ("config", "objective"): str,
    ("data", "name"): str,
    ("data", "label_names"): list,
    **{("data", "splits", name, "images"): int for name in ("train", *SPLITS)},
    **{("metrics", name): int for name in ("draws", "importance_samples", "active_units")},
    **{("metrics", name): _NUMBER for name in ("elbo", "elbo_se", "rate", "distortion")},
    ("training", "seconds"): _NUMBER,
    ("training", "device"): str,
    **{("training", name): int for name in ("best_step", "parameters")},
}


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """Holds a model with frozen weights and everything its directory says about it.

    It wears the public face of a model (``encode``, ``decode``, ``prior``, ``config``).

    Args:
        name: The directory's name.
        model: The VAE, in eval mode, with frozen weights.
        manifest: The manifest as read.
        reference: The reference statistics.
        history: One mapping for each evaluation during training.
        weights_sha256: The sha256 of the weights file, which identifies the model, not its
            reference set; see :attr:`identity`.
        path: The directory that it was read from.
    """

    name: str
    model: VAE
    manifest: Mapping[str, Any]
    reference: Reference
    history: tuple[Mapping[str, Any], ...]
    weights_sha256: str
    path: Path

    @property
    def config(self) -> ModelConfig:
        """The model's description."""
        return self.model.config

    @property
    def image(self) -> ImageSpec:
        """The shape and levels of its images."""
        return self.model.image

    @property
    def latent_dim(self) -> int:
        """The number :math:`D` of latent dimensions."""
        return self.model.latent_dim

    @property
    def likelihood(self) -> LikelihoodFacts:
        r"""What :math:`p(x \mid z)` is."""
        return self.model.likelihood

    @property
    def prior(self) -> Distribution:
        """The prior :math:`p(z)`, event shape :math:`(D)`."""
        return self.model.prior

    @cached_property
    def identity(self) -> str:
        """The sha256 of what the manifest says, by which a cached number is kept.

        The manifest lists the digests of weights and reference set and the settings of the scores,
        so two checkpoints share it only where every number of theirs is the same.
        """
        return sha256(to_json(self.manifest).encode()).hexdigest()

    @property
    def data_title(self) -> str:
        """The data set's name for people."""
        return data_title(self.manifest)

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, weights {self.weights_sha256[:12]})"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the data set's classes; empty where there are none."""
        return tuple(self.manifest["data"]["label_names"])

    def observe(self, levels: np.ndarray, seed: int = 0) -> Tensor:
        r"""What the model sees of images; see :meth:`vae.model.face.LatentModel.observe`."""
        return self.model.observe(levels, seed)

    def encode(self, x: Tensor) -> Distribution:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Distribution:
        r"""The likelihood :math:`p(x \mid z)`, batch :math:`(B)`, event :math:`(C, H, W)`."""
        return self.model.decode(z)


def data_title(manifest: Mapping[str, Any]) -> str:
    """A data set's name for people; of a folder only the last part, not where it lies."""
    name = manifest["data"]["name"]
    if name.startswith("folder:"):
        return f"folder {Path(name.removeprefix('folder:')).name}"
    return name.removesuffix(":full")


def write(
    path: str | Path,
    model: VAE,
    reference: Reference,
    history: Iterable[Mapping[str, Any]],
    facts: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Commits a checkpoint directory atomically, after reading it back.

    Args:
        path: The directory to make, or a link to one, which then leads to the new one.
        model: The model whose weights are written.
        reference: The reference statistics.
        history: The training curve, one JSON mapping a line.
        facts: Further manifest entries (``config``, ``data``, ``metrics``, ``training``, ...).
        overwrite: Whether a checkpoint that stands there is replaced.

    Raises:
        FileExistsError: If something stands there that may not be replaced.
        OSError: If the disk refuses; what stood there before stands there still.
    """
    path = check_target(path, overwrite)
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    arrays = {name: value for name, value in reference._asdict().items() if value is not None}
    contents = {
        # The config is covered by the weights' sha256, which so identifies the whole model.
        "model.safetensors": safetensors.torch.save(
            weights, metadata={"config": to_json(model.config.to_dict())}
        ),
        "reference.safetensors": safetensors.numpy.save(arrays),
        "history.jsonl": "".join(f"{to_json(line)}\n" for line in history).encode(),
    }
    manifest = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        **facts,
        "files": {
            name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in contents.items()
        },
    }
    fresh = aside(path)
    try:
        fresh.mkdir()
        # Written last: a directory without a manifest isn't a checkpoint.
        contents["manifest.json"] = to_json(manifest, indent=1).encode()
        for name, data in contents.items():
            create_file(fresh / name, data)
        flush_folder(fresh)
        for name, data in contents.items():
            if (fresh / name).read_bytes() != data:
                raise OSError(errno.EIO, f"{name} reads back otherwise than it was written")
        try:
            load(fresh)
        except CheckpointError as error:
            if error.code in _UNREADABLE:
                raise OSError(errno.EIO, f"what was written cannot be read: {error}") from error
            raise
        move_into_place(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(path: str | Path) -> Checkpoint:
    """Opens a checkpoint directory and verifies every byte of it.

    Args:
        path: The directory.

    Returns:
        The checkpoint, its model frozen and in eval mode.

    Raises:
        CheckpointError: If it is missing, damaged, or of a newer format; the message says which.
    """
    path = Path(os.path.abspath(path))
    there = Path(os.path.realpath(path))
    for _ in range(20):
        recover(there)
        before = inode_of(path)
        try:
            return _load(path)
        except CheckpointError:
            # Where it was replaced while being read, the new one is whole. While a writer is at
            # work it may be between two renames, or another reader may have put the old one back.
            if inode_of(path) == before and not is_being_replaced(there):
                raise
            time.sleep(0.005)
    return _load(path)


def _load(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    contents = {name: _verified(path, name, manifest["files"]) for name in _FILES}
    config = config_from(manifest, path.name)
    model = model_from(config, contents["model.safetensors"], path.name)
    reference = reference_from(contents["reference.safetensors"], config, path.name)
    try:
        lines = contents["history.jsonl"].decode().splitlines()
        history = tuple(from_json(line) for line in lines)
    except ValueError as error:
        raise CheckpointError(
            "E-CKPT-04", f"The history of {path.name!r} is damaged: {error}."
        ) from error
    return Checkpoint(
        name=path.name,
        model=model.eval().requires_grad_(False),
        manifest=manifest,
        reference=reference,
        history=history,
        weights_sha256=manifest["files"]["model.safetensors"]["sha256"],
        path=path,
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint directory, and checks what can be without the files.

    Raises:
        CheckpointError: If there is none, or it is damaged or of a newer format, or a file that
            it lists is missing or of another size.
    """
    if not os.path.isdir(path):
        raise CheckpointError("E-CKPT-01", f"There is no checkpoint directory {str(path)!r}.")
    try:
        manifest = from_json(_read_file(path / "manifest.json", 16 * 2**20).decode())
    except FileNotFoundError:
        raise CheckpointError(
            "E-CKPT-01",
            f"{str(path)!r} holds no manifest.json, so it is not a finished checkpoint.",
        ) from None
    except OSError as error:
        raise _unreadable(path, "manifest.json", error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "E-CKPT-04", f"The manifest of {path.name!r} is damaged: {error}."
        ) from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError("E-CKPT-04", f"The manifest of {path.name!r} states no format.")
    if version != FORMAT:
        raise CheckpointError(
            "E-CKPT-06",
            f"{path.name!r} is of format {version}, and this Elboscope reads format {FORMAT}: "
            "update Elboscope or train the model anew.",
        )
    for keys, kind in _ENTRIES.items():
        value: Any = manifest
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            place = f" in {'.'.join(keys[:-1])!r}" if keys[:-1] else ""
            raise CheckpointError(
                "E-CKPT-04", f"The manifest of {path.name!r} lacks {keys[-1]!r}{place}."
            )
    config_from(manifest, path.name)
    for name in _FILES:
        _check_size(path, name, manifest["files"])
    return manifest


def _read_file(path: Path, limit: int) -> bytes:
    # Links and pipes are refused before opening: a pipe would block, a link may lead anywhere.
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if status.st_size > limit:
        raise OSError(f"{path.name} is larger than {limit // 2**20} MB")
    return path.read_bytes()


def _check_size(path: Path, name: str, files: Mapping[str, Any]) -> None:
    """Refuses a file that cannot be the listed one, at the cost of no reading."""
    try:
        status = (path / name).lstat()
    except OSError as error:
        raise _unreadable(path, name, error) from None
    listed = files.get(name)
    if not isinstance(listed, dict) or status.st_size != listed.get("bytes"):
        raise _altered(path, name)
    if not isinstance(listed.get("sha256"), str):
        raise _altered(path, name)


def _verified(path: Path, name: str, files: Mapping[str, Any]) -> bytes:
    try:
        data = _read_file(path / name, _MAX_BYTES)
    except OSError as error:
        raise _unreadable(path, name, error) from None
    if sha256(data).hexdigest() != files[name].get("sha256"):
        raise _altered(path, name)
    return data


def _unreadable(path: Path, name: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        "E-CKPT-02",
        f"{name} of {path.name!r} cannot be read ({error.strerror or error}); restore the "
        "directory.",
    )


def _altered(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        "E-CKPT-03",
        f"{name} of {path.name!r} is not the file that its manifest lists; restore the "
        "directory or train the model anew.",
    )
