"""What a checkpoint's manifest says, read once and checked in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.likelihoods import LikelihoodFacts, facts_of
from vae.store.contents import SPLITS, CheckpointError, from_json, to_json
from vae.store.target import FILES, hashed_name

__all__ = ["FORMAT", "Card", "ListedFile", "Metrics", "altered", "card_of"]

FORMAT = 1

_BOUNDLESS = 1e300

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Metrics:
    """Means over the validation images, in nats where nothing else is said.

    Args:
        images: The number of validation images.
        elbo: The ELBO.
        elbo_se: Its standard error over images, as with the others; none for a single image.
        rate: The KL.
        distortion: Minus the expected log-likelihood.
        draws: The draws behind each ELBO; 0 by quadrature.
        importance_samples: The k of the importance-weighted bound; 0 where it was left out.
        active_units: The number of latent dimensions whose mean moves with the image.
        iwae_bound: The importance-weighted bound.
        log_evidence: The exact log p(x).
        log_evidence_images: The number of images of which it is known, where not of all.
        bits_per_dim: Minus the ELBO in bits for each pixel value, of a likelihood of levels.
    """

    images: int
    elbo: float
    elbo_se: float
    rate: float
    distortion: float
    draws: int
    importance_samples: int
    active_units: int
    rate_se: float | None
    distortion_se: float | None
    iwae_bound: float | None
    iwae_bound_se: float | None
    log_evidence: float | None
    log_evidence_se: float | None
    log_evidence_images: int | None
    bits_per_dim: float | None


@dataclass(frozen=True)
class Training:
    """How a model was trained.

    Args:
        seconds: How long it took.
        device: On what.
        best_step: The step whose weights were kept.
        parameters: The number of weights.
    """

    seconds: float
    device: str
    best_step: int
    parameters: int


@dataclass(frozen=True)
class DataFacts:
    """The images that a model was trained on.

    Args:
        name: The data set's name, as ``--data`` takes it.
        label_names: The names of its classes; empty where there are none.
        digest: What identifies its images, where it was recorded.
        images: The number of images of each split.
        copies: How many held-out images are copies of images that training saw.
        recorded: All that was recorded; see :func:`vae.data.sets.image_data.same_images`.
    """

    name: str
    label_names: tuple[str, ...]
    digest: str | None
    images: Mapping[str, int]
    copies: int
    recorded: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The name for people; of a folder only the last part, not where it lies."""
        if self.name.startswith("folder:"):
            return f"folder {Path(self.name.removeprefix('folder:')).name}"
        return self.name.removesuffix(":full")


@dataclass(frozen=True)
class ListedFile:
    """One of a checkpoint's files, as its manifest lists it.

    Args:
        name: Its name in the checkpoint's directory.
        sha256: The sha256 of its contents, in hexadecimal digits.
        bytes: Its size.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Card:
    """What the manifest of a checkpoint says.

    Args:
        title: The model's name for people.
        description: What it is, for people.
        command: The command that made it.
        model: The model's description.
        run: The settings of its training, as they were stored.
        objective: What was maximised.
        beta: The weight of the KL.
        data: The images that it was trained on.
        metrics: Its numbers on the validation images.
        training: How it was trained.
        files: Its files, by :data:`vae.store.target.FILES`.
        identity: The sha256 of all that, by which a cached number is kept. It covers the digests
            of weights and reference set and the settings of the scores, so two checkpoints share
            it only where every number of theirs is the same.
    """

    title: str
    description: str
    command: str
    model: ModelConfig
    run: Mapping[str, Any]
    objective: str
    beta: float
    data: DataFacts
    metrics: Metrics
    training: Training
    files: Mapping[str, ListedFile]
    identity: str

    @property
    def image(self) -> ImageSpec:
        """The shape and levels of the model's images."""
        return self.model.image

    @property
    def latent_dim(self) -> int:
        """The number :math:`D` of latent dimensions."""
        return self.model.latent_dim

    @property
    def likelihood(self) -> LikelihoodFacts:
        r"""What :math:`p(x \mid z)` is."""
        return facts_of(self.model.likelihood)

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the weights file, which identifies the model, not its reference set."""
        return self.files["model.safetensors"].sha256


def card_of(data: bytes, name: str) -> Card:
    """Reads the manifest of a checkpoint of a name.

    Raises:
        CheckpointError: If it is damaged, incomplete or of a newer format.
    """
    try:
        manifest = from_json(data.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "E-CKPT-04", f"The manifest of {name!r} is damaged: {error}."
        ) from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError("E-CKPT-04", f"The manifest of {name!r} states no format.")
    if version != FORMAT:
        raise CheckpointError(
            "E-CKPT-06",
            f"{name!r} is of format {version}, and this Elboscope reads format {FORMAT}: "
            "update Elboscope or train the model anew.",
        )
    entries = _Entries(manifest, name)
    beta = entries.get(float | None, "config", "beta")
    return Card(
        title=entries.get(str, "card", "title"),
        description=entries.get(str, "card", "description"),
        command=entries.get(str, "command"),
        run=entries.get(dict, "config"),
        objective=entries.get(str, "config", "objective"),
        beta=1.0 if beta is None else float(beta),
        data=_data(entries),
        metrics=entries.record(Metrics, "metrics"),
        training=entries.record(Training, "training"),
        model=_model(entries.get(dict, "model"), name),
        files={file: _listed(entries.get(dict, "files"), file, name) for file in FILES},
        identity=sha256(to_json(manifest).encode()).hexdigest(),
    )


def altered(name: str, file: str) -> CheckpointError:
    """The refusal of a file that is not the one that the manifest lists."""
    return CheckpointError(
        "E-CKPT-03",
        f"{file} of {name!r} is not the file that its manifest lists; restore the "
        "directory or train the model anew.",
    )


@dataclass(frozen=True)
class _Entries:
    """The entries of the manifest of a checkpoint of a name; each is of its kind or refused."""

    manifest: dict[str, Any]
    name: str

    def get(self, kind: Any, *keys: str) -> Any:  # noqa: ANN401
        value: Any = self.manifest
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        # JSON writes a whole float as an integer; a truth is no number, nor is what has no float.
        kinds = kind | int if float in (kind, *get_args(kind)) else kind
        boundless = isinstance(value, int | float) and not abs(value) < _BOUNDLESS
        if not isinstance(value, kinds) or isinstance(value, bool) or boundless:
            place = f" in {'.'.join(keys[:-1])!r}" if keys[:-1] else ""
            raise CheckpointError(
                "E-CKPT-04", f"The manifest of {self.name!r} lacks {keys[-1]!r}{place}."
            )
        return value

    def record(self, kind: type[_Record], *keys: str) -> _Record:
        hints = get_type_hints(kind)
        return kind(**{name: self.get(hint, *keys, name) for name, hint in hints.items()})


def _data(entries: _Entries) -> DataFacts:
    splits = dict.fromkeys(("train", *SPLITS)) | entries.get(dict, "data", "splits")
    copies = [entries.get(int | None, "data", "duplicates", split) or 0 for split in SPLITS]
    return DataFacts(
        name=entries.get(str, "data", "name"),
        label_names=tuple(map(str, entries.get(list, "data", "label_names"))),
        digest=entries.get(str | None, "data", "digest"),
        images={split: entries.get(int, "data", "splits", split, "images") for split in splits},
        copies=sum(copies),
        recorded=entries.get(dict, "data"),
    )


def _model(values: Mapping[str, Any], name: str) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except ValueError as error:
        raise CheckpointError(
            "E-CKPT-05", f"The model config of {name!r} is invalid: {error}"
        ) from error


def _listed(files: Mapping[str, Any], file: str, name: str) -> ListedFile:
    """One file's entry; its name can only be one that a writer of checkpoints gives it."""
    entry = files.get(file)
    entry = entry if isinstance(entry, dict) else {}
    found = ListedFile(entry.get("name", file), entry.get("sha256"), entry.get("bytes"))
    is_digest = isinstance(found.sha256, str) and re.fullmatch("[0-9a-f]{64}", found.sha256)
    if not is_digest or type(found.bytes) is not int:
        raise altered(name, file)
    if found.name not in (file, hashed_name(file, found.sha256)):
        raise altered(name, file)
    return found
