r"""A checkpoint: one directory, committed once, that rebuilds its model alone.

``manifest.json`` (config, data set, splits, metrics, a sha256 for every other file),
``model.safetensors`` (weights), ``reference.safetensors`` (per-image statistics of the validation
and calibration images) and ``history.jsonl`` (the training curve). There is no pickle anywhere.

A checkpoint is written to a hidden sibling, flushed to disk, read back, and renamed into place:
at every instant a reader finds the old one, or the new one, or none, and never a mixture. Files
are read as bytes, never mapped into memory: truncating a mapped file kills its reader.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributions import Distribution

from vae.model.config import ModelConfig
from vae.model.vae import VAE

__all__ = [
    "FORMAT",
    "SPLITS",
    "Checkpoint",
    "CheckpointError",
    "Reference",
    "load",
    "read_manifest",
    "recover",
    "write",
]

FORMAT = 1
SPLITS = ("validation", "calibration")

_FILES = ("model.safetensors", "reference.safetensors", "history.jsonl")
_MAX_BYTES = 512 * 2**20
_MAX_TENSORS = 2_000


class CheckpointError(ValueError):
    """Raised for a checkpoint that cannot be used, with a stable code and one sentence.

    Args:
        code: A stable code such as ``"E-CKPT-02"``.
        message: What is wrong and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Reference(NamedTuple):
    r"""Per-image statistics of the reference set, in the order of ``indices``.

    Attributes:
        indices: Index of each image in its data set, ``int64``, with shape :math:`(N,)`.
        split: 0 for validation and 1 for calibration (``SPLITS``), ``uint8``, :math:`(N,)`.
        labels: Class labels, -1 where there are none, ``int64``, :math:`(N,)`.
        mu: Posterior means, ``float64``, :math:`(N, D)`.
        log_variance: Logs of the posterior variances, ``float64``, :math:`(N, D)`.
        expected_log_likelihood: :math:`E_q[\log p(x \mid z)]` in nats, ``float64``, :math:`(N,)`.
        elbo: That minus the KL, which follows from the two above, in nats, :math:`(N,)`.
        elbo_se: Its standard error (0 where there is no sampling), ``float64``, :math:`(N,)`.
        iwae_bound: The importance-weighted bound in nats, ``float64``, :math:`(N,)`.
        log_evidence: Exact :math:`\log p(x)` where :math:`D \le 2`, else NaN, :math:`(N,)`.
        levels: The images themselves, ``uint8``, :math:`(N, C, H, W)`, or none of them.
    """

    indices: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    mu: np.ndarray
    log_variance: np.ndarray
    expected_log_likelihood: np.ndarray
    elbo: np.ndarray
    elbo_se: np.ndarray
    iwae_bound: np.ndarray
    log_evidence: np.ndarray
    levels: np.ndarray | None

    @property
    def size(self) -> int:
        """The number :math:`N` of images."""
        return len(self.indices)

    def of_split(self, name: str) -> np.ndarray:
        """Positions of a split's images in these arrays, ``int64``."""
        return np.flatnonzero(self.split == SPLITS.index(name))


@dataclass(frozen=True)
class Checkpoint:
    """Holds a model with frozen weights and everything its directory says about it.

    It wears the public face of a model (``encode``, ``decode``, ``prior``, ``config``).

    Args:
        name: The directory's name.
        model: The VAE, in eval mode, with frozen weights.
        manifest: The manifest as read.
        reference: The reference statistics.
        history: One mapping for each evaluation during training.
        weights_sha256: The sha256 of the weights file, which identifies the model.
    """

    name: str
    model: VAE
    manifest: Mapping[str, Any]
    reference: Reference
    history: tuple[Mapping[str, Any], ...]
    weights_sha256: str

    @property
    def config(self) -> ModelConfig:
        """The model's description."""
        return self.model.config

    @property
    def prior(self) -> Distribution:
        """The prior :math:`p(z)`, event shape :math:`(D)`."""
        return self.model.prior

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the data set's classes; empty where there are none."""
        return tuple(self.manifest["data"]["label_names"])

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Distribution:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""
        return self.model.encode(x)

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Distribution:
        r"""The likelihood :math:`p(x \mid z)`, batch :math:`(B)`, event :math:`(C, H, W)`."""
        return self.model.decode(z)


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
        path: The directory to make.
        model: The model whose weights are written.
        reference: The reference statistics.
        history: The training curve, one JSON mapping a line.
        facts: Further manifest entries (``config``, ``data``, ``metrics``, ``training``, ...).
        overwrite: Whether a checkpoint that stands there is replaced.

    Raises:
        FileExistsError: If the directory exists and ``overwrite`` is false.
        OSError: If the disk refuses; what stood there before stands there still.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or pass --overwrite.")
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    arrays = {name: value for name, value in reference._asdict().items() if value is not None}
    contents = {
        "model.safetensors": safetensors.torch.save(weights),
        "reference.safetensors": safetensors.numpy.save(arrays),
        "history.jsonl": "".join(f"{_to_json(line)}\n" for line in history).encode(),
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
    fresh = path.parent / f".{path.name}.tmp-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        for name, data in contents.items():
            _write_file(fresh / name, data)
        # Written last: a directory without a manifest isn't a checkpoint.
        _write_file(fresh / "manifest.json", _to_json(manifest, indent=1).encode())
        _flush_folder(fresh)
        load(fresh)
        _move_into_place(fresh, path)
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
    path = Path(path)
    recover(path)
    manifest = read_manifest(path)
    contents = {name: _verified(path, name, manifest["files"]) for name in _FILES}
    try:
        config = ModelConfig.from_dict(manifest["model"])
    except ValueError as error:
        raise CheckpointError(
            "E-CKPT-05", f"The model config of {path.name!r} is invalid: {error}"
        ) from error
    model = VAE(config)
    _fill(model, _tensors(contents["model.safetensors"], path.name), path.name)
    reference = _reference(contents["reference.safetensors"], config, path.name)
    try:
        lines = contents["history.jsonl"].decode().splitlines()
        history = tuple(_from_json(line) for line in lines)
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
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads and checks the manifest of a checkpoint directory.

    Raises:
        CheckpointError: If there is none, or it is damaged or of a newer format.
    """
    if not path.is_dir():
        raise CheckpointError("E-CKPT-01", f"There is no checkpoint directory {str(path)!r}.")
    try:
        manifest = _from_json(_read_file(path / "manifest.json", 16 * 2**20).decode())
    except FileNotFoundError:
        raise CheckpointError(
            "E-CKPT-01",
            f"{str(path)!r} holds no manifest.json, so it is not a finished checkpoint.",
        ) from None
    except (ValueError, OSError, RecursionError) as error:
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
    for key in ("model", "config", "data", "metrics", "training", "files"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError("E-CKPT-04", f"The manifest of {path.name!r} lacks {key!r}.")
    return manifest


def recover(path: Path) -> None:
    """Puts back a checkpoint whose replacement was cut short between two renames."""
    previous = _previous(path)
    if previous.is_dir() and not path.exists():
        previous.rename(path)


def _previous(path: Path) -> Path:
    return path.parent / f".{path.name}.previous"


def _move_into_place(fresh: Path, path: Path) -> None:
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    try:
        fresh.rename(path)
    except OSError:
        recover(path)
        raise
    _flush_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_file(path: Path, limit: int) -> bytes:
    # Links and pipes are refused before opening: a pipe would block, a link may lead anywhere.
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if status.st_size > limit:
        raise OSError(f"{path.name} is larger than {limit // 2**20} MB")
    return path.read_bytes()


def _verified(path: Path, name: str, files: Mapping[str, Any]) -> bytes:
    try:
        data = _read_file(path / name, _MAX_BYTES)
    except OSError as error:
        raise CheckpointError(
            "E-CKPT-02",
            f"{name} of {path.name!r} cannot be read ({error}); restore the directory.",
        ) from None
    listed = files.get(name)
    if not isinstance(listed, dict) or sha256(data).hexdigest() != listed.get("sha256"):
        raise CheckpointError(
            "E-CKPT-03",
            f"{name} of {path.name!r} is not the file that its manifest lists; restore the "
            "directory or train the model anew.",
        )
    return data


def _tensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
        if len(header) > _MAX_TENSORS:
            raise ValueError(f"{len(header)} tensors are too many")
        return safetensors.numpy.load(data)
    except (ValueError, SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            "E-CKPT-04", f"The tensors of {name!r} are damaged: {error}."
        ) from error


def _fill(model: VAE, weights: Mapping[str, np.ndarray], name: str) -> None:
    expected = model.state_dict()
    differences = [f"{key} is missing" for key in expected if key not in weights]
    differences += [f"{key} is unknown" for key in weights if key not in expected]
    differences += [
        f"{key} is {weights[key].shape}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != tuple(value.shape)
    ]
    if differences:
        raise CheckpointError(
            "E-CKPT-07", f"The weights of {name!r} don't fit: {'; '.join(differences[:5])}."
        )
    for key, value in weights.items():
        if value.dtype.kind != "f":
            raise CheckpointError(
                "E-CKPT-07", f"{key} of {name!r} holds {value.dtype}, not floats."
            )
        if not np.isfinite(value).all():
            raise CheckpointError("E-CKPT-08", f"{key} of {name!r} holds NaN or infinite weights.")
    model.load_state_dict(
        {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}
    )


def _reference(data: bytes, config: ModelConfig, name: str) -> Reference:
    arrays = _tensors(data, name)
    fields = {field: arrays.get(field) for field in Reference._fields}
    missing = [key for key, value in fields.items() if value is None and key != "levels"]
    if missing:
        raise CheckpointError(
            "E-CKPT-07", f"The reference of {name!r} lacks {', '.join(missing)}."
        )
    count = len(fields["indices"])
    shapes = {"mu": (count, config.latent_dim), "log_variance": (count, config.latent_dim)}
    shapes["levels"] = (count, *config.image.shape)
    for key, value in fields.items():
        if value is not None and value.shape != shapes.get(key, (count,)):
            raise CheckpointError(
                "E-CKPT-07", f"{key} in the reference of {name!r} has shape {value.shape}."
            )
    return Reference(**fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key stands there twice")
    return mapping


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def _from_json(text: str) -> Any:  # noqa: ANN401
    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}, which is no JSON number")

    return json.loads(text, parse_constant=refuse, object_pairs_hook=_unique)
