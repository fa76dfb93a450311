r"""A checkpoint: one directory, committed once, that rebuilds its model alone.

``manifest.json`` (config, data set, splits, metrics, a sha256 for every other file),
``model.safetensors`` (weights), ``reference.safetensors`` (per-image statistics of the validation
and calibration images) and ``history.jsonl`` (the training curve). There is no pickle anywhere.

A checkpoint is written to a hidden sibling, flushed to disk, read back, and renamed into place:
at every instant a reader finds the old one, or the new one, or none, and never a mixture. Files
are read as bytes, never mapped into memory: truncating a mapped file kills its reader.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
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

from vae.data.disk import create_file, flush_folder, is_alive
from vae.model.config import ModelConfig
from vae.model.vae import VAE

__all__ = [
    "FORMAT",
    "SPLITS",
    "Checkpoint",
    "CheckpointError",
    "Reference",
    "check_target",
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
# The codes by which a fault of the disk shows, rather than one of the model.
_UNREADABLE = ("E-CKPT-01", "E-CKPT-02", "E-CKPT-03", "E-CKPT-04")
_REPLACED = (errno.ENOTEMPTY, errno.EEXIST)


# What others read from a manifest without asking.
_ENTRIES = (
    ("config", "objective", str),
    ("data", "name", str),
    ("data", "label_names", list),
    ("data", "splits", dict),
    ("metrics", "draws", int),
)
_KINDS = {"indices": np.int64, "split": np.uint8, "labels": np.int64, "levels": np.uint8}


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
    def prior(self) -> Distribution:
        """The prior :math:`p(z)`, event shape :math:`(D)`."""
        return self.model.prior

    @cached_property
    def identity(self) -> str:
        """The sha256 of what the manifest says, by which a cached number is kept.

        The manifest lists the digests of weights and reference set and the settings of the scores,
        so two checkpoints share it only where every number of theirs is the same.
        """
        return sha256(_to_json(self.manifest).encode()).hexdigest()

    @property
    def data_title(self) -> str:
        """The data set's name for people; of a folder only the last part, not where it lies."""
        name = self.manifest["data"]["name"]
        if name.startswith("folder:"):
            return f"folder {Path(name).name}"
        return name.removesuffix(":full")

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, weights {self.weights_sha256[:12]})"

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


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Checks that a checkpoint may be written at a path; makes the folder that it lies in.

    Args:
        path: The directory to make.
        overwrite: Whether a checkpoint that stands there may be replaced.

    Returns:
        The path, absolute.

    Raises:
        FileExistsError: If something stands there that may not be replaced.
        OSError: If nothing can be written there.
    """
    path = Path(os.path.abspath(path))
    # A run under way keeps its files in the place of the checkpoint that it will become.
    if os.path.lexists(path) and not _holds_only_a_run(path):
        if not overwrite:
            raise FileExistsError(
                f"{path} exists already; choose another name or pass --overwrite."
            )
        # One wrong word must not cost a folder of something else.
        if not os.path.lexists(path / "manifest.json"):
            raise FileExistsError(f"{path} is not a checkpoint, so it is not replaced.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tried rather than asked for: permissions don't tell of a full disk or a read-only mount.
    _remove_leftovers(path)
    _fresh(path).mkdir()
    _fresh(path).rmdir()
    return path


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
            weights, metadata={"config": _to_json(model.config.to_dict())}
        ),
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
    fresh = _fresh(path)
    try:
        fresh.mkdir()
        # Written last: a directory without a manifest isn't a checkpoint.
        contents["manifest.json"] = _to_json(manifest, indent=1).encode()
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
    path = Path(os.path.abspath(path))
    for _ in range(20):
        recover(path)
        before = _identity(path)
        try:
            return _load(path)
        except CheckpointError:
            # Where it was replaced while being read, the new one is whole. While a writer is at
            # work it may be between two renames, or another reader may have put the old one back.
            if _identity(path) == before and not _is_being_replaced(path):
                raise
            time.sleep(0.005)
    return _load(path)


def _is_being_replaced(path: Path) -> bool:
    """Whether a writer of this checkpoint has files beside it."""
    return any(path.parent.glob(f".{glob.escape(path.name)}.*"))


def _load(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    contents = {name: _verified(path, name, manifest["files"]) for name in _FILES}
    config = _config(manifest, path.name)
    model = _model(config, contents["model.safetensors"], path.name)
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
    for key, entry, kind in _ENTRIES:
        if not isinstance(manifest[key].get(entry), kind):
            raise CheckpointError(
                "E-CKPT-04", f"The manifest of {path.name!r} lacks {entry!r} in {key!r}."
            )
    _config(manifest, path.name)
    for name in _FILES:
        _check_size(path, name, manifest["files"])
    return manifest


def recover(path: Path) -> None:
    """Puts back a checkpoint whose replacement was cut short between two renames."""
    previous = _previous(path)
    if os.path.isdir(previous) and not os.path.lexists(path):
        # Another process may be quicker, or this one may not write; the next reader tries again.
        with suppress(OSError):
            previous.rename(path)


def _holds_only_a_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and os.listdir(path) == [".run"]


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _fresh(path: Path) -> Path:
    return path.parent / f".{path.name}.tmp-{os.getpid()}"


def _remove_leftovers(path: Path) -> None:
    """Removes what a writer of this name left behind that was killed or is ourselves."""
    prefix = f".{path.name}.tmp-"
    for name in os.listdir(path.parent):
        if not name.startswith(prefix):
            continue
        pid = name.removeprefix(prefix)
        if not (pid.isdecimal() and int(pid) != os.getpid() and is_alive(int(pid))):
            shutil.rmtree(path.parent / name, ignore_errors=True)


def _previous(path: Path) -> Path:
    return path.parent / f".{path.name}.previous"


def _move_into_place(fresh: Path, path: Path) -> None:
    previous = _previous(path)
    for attempts_left in reversed(range(100)):
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        try:
            fresh.rename(path)
            break
        except OSError as error:
            # A reader that came between the two renames has put the old one back: once more.
            if error.errno not in _REPLACED or not attempts_left:
                recover(path)
                raise
    flush_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


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


def _config(manifest: Mapping[str, Any], name: str) -> ModelConfig:
    try:
        return ModelConfig.from_dict(manifest["model"])
    except ValueError as error:
        raise CheckpointError(
            "E-CKPT-05", f"The model config of {name!r} is invalid: {error}"
        ) from error


def _tensors(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
        if len(header) > _MAX_TENSORS:
            raise ValueError(f"{len(header)} tensors are too many")
        return safetensors.numpy.load(data), header.get("__metadata__") or {}
    except (ValueError, SafetensorError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            "E-CKPT-04", f"The tensors of {name!r} are damaged: {error}."
        ) from error


def _model(config: ModelConfig, data: bytes, name: str) -> VAE:
    weights, metadata = _tensors(data, name)
    stored = metadata.get("config", _to_json(config.to_dict()))
    if stored != _to_json(config.to_dict()):
        raise CheckpointError(
            "E-CKPT-05", f"The model config of {name!r} is not the one inside its weights."
        )
    # Shapes alone first: a config that asks for more than the file holds gets no memory.
    with torch.device("meta"):
        model = VAE(config)
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
    tensors = {}
    for key, value in weights.items():
        if value.dtype.kind != "f":
            raise CheckpointError(
                "E-CKPT-07", f"{key} of {name!r} holds {value.dtype}, not floats."
            )
        with np.errstate(over="ignore"):
            tensors[key] = torch.from_numpy(value.astype(np.float32))
        if not tensors[key].isfinite().all():
            raise CheckpointError("E-CKPT-08", f"{key} of {name!r} holds NaN or infinite weights.")
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model


def _reference(data: bytes, config: ModelConfig, name: str) -> Reference:
    arrays, _ = _tensors(data, name)
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
        if value is None:
            continue
        if value.shape != shapes.get(key, (count,)) or value.dtype != _KINDS.get(key, np.float64):
            raise CheckpointError(
                "E-CKPT-07",
                f"{key} in the reference of {name!r} is {value.dtype} of shape {value.shape}.",
            )
        if key not in ("iwae_bound", "log_evidence") and not np.isfinite(value).all():
            raise CheckpointError(
                "E-CKPT-08", f"{key} in the reference of {name!r} holds NaN or infinity."
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
