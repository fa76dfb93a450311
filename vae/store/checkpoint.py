r"""A checkpoint: one directory, replaced at once, that rebuilds its model alone.

``manifest.json`` (config, data set, splits, metrics; name, sha256 and size of every other file),
the weights, ``reference-*.safetensors`` (per-image statistics of the validation and calibration
images) and the training curve, ``history-*.jsonl``. There is no pickle anywhere.

Files are named by their sha256, flushed to disk and read back; then the manifest that lists them
is renamed into place, and what it doesn't list is removed. Readers change nothing. They read files
as bytes, never mapped into memory: truncating a mapped file kills its reader.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import Tensor
from torch.distributions import Distribution

from vae.data.disk import flush_folder, locked, replace_file
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.likelihoods import LikelihoodFacts
from vae.model.vae import VAE
from vae.store.card import FORMAT, Card, ListedFile, altered, card_of
from vae.store.contents import (
    CheckpointError,
    Reference,
    from_json,
    model_from,
    reference_from,
    to_json,
)
from vae.store.target import LOCK, check_target, hashed_name, remove_unlisted

__all__ = ["Checkpoint", "load", "read_card", "write"]

_MANIFEST = "manifest.json"
_MAX_BYTES = 512 * 2**20
# Each needs another writer to replace the manifest between two reads of files.
_ATTEMPTS = 20

_Found = TypeVar("_Found")


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """Holds a model with frozen weights and everything its directory says about it.

    It wears the public face of a model (``encode``, ``decode``, ``prior``, ``config``).

    Args:
        name: The directory's name.
        model: The VAE, in eval mode, with frozen weights.
        card: What the manifest says.
        reference: The reference statistics.
        history: One mapping for each evaluation during training.
        path: The directory that it was read from.
    """

    name: str
    model: VAE
    card: Card
    reference: Reference
    history: tuple[Mapping[str, Any], ...]
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

    @property
    def identity(self) -> str:
        """What two checkpoints share only where every number of theirs is the same."""
        return self.card.identity

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the weights file, which identifies the model, not its reference set."""
        return self.card.weights_sha256

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the data set's classes; empty where there are none."""
        return self.card.data.label_names

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, weights {self.weights_sha256[:12]})"

    def observe(self, levels: np.ndarray, seed: int = 0) -> Tensor:
        r"""What the model sees of images; see :meth:`vae.model.face.LatentModel.observe`."""
        return self.model.observe(levels, seed)

    def encode(self, x: Tensor) -> Distribution:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""
        return self.model.encode(x)

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
    """Commits a checkpoint directory atomically; what is written is read back.

    Args:
        path: The directory to make, or a link to one, whose checkpoint is then replaced.
        model: The model whose weights are written.
        reference: The reference statistics.
        history: The training curve, one JSON mapping a line.
        facts: Further manifest entries (``config``, ``data``, ``metrics``, ``training``, ...).
        overwrite: Whether a checkpoint that stands there is replaced.

    Raises:
        CheckpointError: If nobody could open what would be written.
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
    digests = {file: sha256(data).hexdigest() for file, data in contents.items()}
    files = {
        file: asdict(ListedFile(hashed_name(file, digests[file]), digests[file], len(data)))
        for file, data in contents.items()
    }
    manifest = {"format": FORMAT, "model": model.config.to_dict(), **facts, "files": files}
    text = to_json(manifest, indent=1).encode()
    card = card_of(text, path.name)
    _opened(path, card, contents)
    path.mkdir(parents=True, exist_ok=True)
    flush_folder(path.parent)
    with locked(path / LOCK, f"waiting for another process that writes {path}"):
        # Another writer may have been first.
        check_target(path, overwrite)
        before = _names_listed(path)
        try:
            for file, data in contents.items():
                replace_file(path / card.files[file].name, data)
            replace_file(path / _MANIFEST, text)
            # Until here a power cut may bring the old manifest back.
            before = set()
        finally:
            remove_unlisted(path, before | _names_listed(path))


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
    card, contents = _consistently(
        path, lambda card: {file: _verified(path, listed) for file, listed in card.files.items()}
    )
    return _opened(path, card, contents)


def read_card(path: Path) -> Card:
    """Reads the manifest of a checkpoint directory, and checks what can be without the files.

    Raises:
        CheckpointError: If there is none, or it is damaged or of a newer format, or a file that
            it lists is missing or of another size.
    """
    return _consistently(
        path, lambda card: [_check_size(path, listed) for listed in card.files.values()]
    )[0]


def _opened(path: Path, card: Card, contents: Mapping[str, bytes]) -> Checkpoint:
    """The checkpoint of a manifest and the bytes of its files."""
    model = model_from(card.model, contents["model.safetensors"], path.name)
    reference = reference_from(contents["reference.safetensors"], card.model, path.name)
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
        card=card,
        reference=reference,
        history=history,
        path=path,
    )


def _consistently(path: Path, read: Callable[[Card], _Found]) -> tuple[Card, _Found]:
    """Reads files of one manifest: anew where a writer has replaced it and removed some."""
    for _ in range(_ATTEMPTS):
        try:
            card = _read_manifest(path)
            return card, read(card)
        except CheckpointError as error:
            if getattr(error.__cause__, "errno", 0) not in (errno.ENOENT, errno.ESTALE):
                raise
            refusal = error
    raise refusal


def _read_manifest(path: Path) -> Card:
    if not os.path.isdir(path):
        raise CheckpointError("E-CKPT-01", f"There is no checkpoint directory {str(path)!r}.")
    try:
        return card_of(_read_file(path / _MANIFEST, 16 * 2**20), path.name)
    except FileNotFoundError:
        raise CheckpointError(
            "E-CKPT-01",
            f"{str(path)!r} holds no manifest.json, so it is not a finished checkpoint.",
        ) from None
    except OSError as error:
        raise _unreadable(path, _MANIFEST, error) from error


def _names_listed(path: Path) -> set[str]:
    """The files that a manifest lists; where it cannot be read it may be any of those there."""
    try:
        return {listed.name for listed in _read_manifest(path).files.values()}
    except CheckpointError as error:
        return set() if error.code == "E-CKPT-01" else set(os.listdir(path))


def _read_file(path: Path, limit: int) -> bytes:
    # Links and pipes are refused before opening: a pipe would block, a link may lead anywhere.
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if status.st_size > limit:
        raise OSError(f"{path.name} is larger than {limit // 2**20} MB")
    return path.read_bytes()


def _check_size(path: Path, listed: ListedFile) -> None:
    """Refuses a file that cannot be the listed one, at the cost of no reading."""
    try:
        size = (path / listed.name).lstat().st_size
    except OSError as error:
        raise _unreadable(path, listed.name, error) from error
    if size != listed.bytes:
        raise altered(path.name, listed.name)


def _verified(path: Path, listed: ListedFile) -> bytes:
    _check_size(path, listed)
    try:
        data = _read_file(path / listed.name, _MAX_BYTES)
    except OSError as error:
        raise _unreadable(path, listed.name, error) from error
    if sha256(data).hexdigest() != listed.sha256:
        raise altered(path.name, listed.name)
    return data


def _unreadable(path: Path, name: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        "E-CKPT-02",
        f"{name} of {path.name!r} cannot be read ({error.strerror or error}); restore the "
        "directory.",
    )
