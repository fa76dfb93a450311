"""What a checkpoint's files hold, from bytes to a model and its reference statistics.

Whatever is wrong with them is refused with a stable code and one sentence, before it can cost
memory or surprise anybody later.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

from vae.model.config import ModelConfig
from vae.model.imported import PROGRAMS, ImportedConfig, ImportedVAE
from vae.model.program import Program
from vae.model.vae import VAE

__all__ = [
    "SPLITS",
    "CheckpointError",
    "Reference",
    "from_json",
    "model_from",
    "reference_from",
    "to_json",
    "weights_of",
]

SPLITS = ("validation", "calibration")

_MAX_TENSORS = 2_000
# How far a network may stray from what it gave when it was imported, relative to its outputs.
_MOST_STRAYED = 1e-3
_ERRORS = ("elbo_error", "log_evidence_error")
# Where these are NaN, they were not asked for or do not exist.
_MAY_LACK = ("elbo_se", "iwae_bound", "log_evidence", *_ERRORS)
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
        elbo_se: Its standard error: 0 by quadrature, NaN from a single draw, :math:`(N,)`.
        elbo_error: Its numerical error by quadrature, NaN from draws, :math:`(N,)`.
        iwae_bound: The importance-weighted bound in nats, ``float64``, :math:`(N,)`.
        log_evidence: Exact :math:`\log p(x)` where :math:`D \le 2`, else NaN, :math:`(N,)`.
        log_evidence_error: Its numerical error, NaN where there is none, :math:`(N,)`.
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
    elbo_error: np.ndarray
    iwae_bound: np.ndarray
    log_evidence: np.ndarray
    log_evidence_error: np.ndarray
    levels: np.ndarray | None

    @property
    def elbo_uncertainty(self) -> np.ndarray:
        """What the ELBO may be off, numerically or by its draws, in nats, (N,)."""
        return np.where(np.isnan(self.elbo_error), self.elbo_se, self.elbo_error)

    @property
    def size(self) -> int:
        """The number :math:`N` of images."""
        return len(self.indices)

    def of_split(self, name: str) -> np.ndarray:
        """Positions of a split's images in these arrays, ``int64``."""
        return np.flatnonzero(self.split == SPLITS.index(name))


def weights_of(model: VAE | ImportedVAE) -> bytes:
    """A model as the bytes of its weights file.

    The file's metadata holds the config and, of an imported model, its networks; so the sha256 of
    the file identifies the whole model.
    """
    metadata = {"config": to_json(model.config.to_dict())}
    if isinstance(model, ImportedVAE):
        tensors = model.tensors
        metadata |= {name: to_json(program.data) for name, program in model.programs.items()}
    else:
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
        }
    return safetensors.torch.save(dict(tensors), metadata=metadata)


def model_from(config: ModelConfig | ImportedConfig, data: bytes, name: str) -> VAE | ImportedVAE:
    """The model in the bytes of its weights file.

    Raises:
        CheckpointError: If they are damaged, of another model, or not finite.
    """
    weights, metadata = _tensors(data, name)
    stored = metadata.get("config", to_json(config.to_dict()))
    if stored != to_json(config.to_dict()):
        raise CheckpointError(
            "E-CKPT-05", f"The model config of {name!r} is not the one inside its weights."
        )
    for key, value in weights.items():
        with np.errstate(over="ignore"):
            finite = value.dtype.kind != "f" or np.isfinite(value.astype(np.float32)).all()
        if not finite:
            raise CheckpointError("E-CKPT-08", f"{key} of {name!r} holds NaN or infinite weights.")
    if isinstance(config, ImportedConfig):
        return _imported(config, weights, metadata, name)
    return _own(config, weights, name)


def _imported(
    config: ImportedConfig, weights: dict[str, np.ndarray], metadata: dict[str, str], name: str
) -> ImportedVAE:
    try:
        programs = [Program(from_json(metadata.get(part, "null"))) for part in PROGRAMS]
        tensors = {key: torch.from_numpy(value.copy()) for key, value in weights.items()}
        model = ImportedVAE(config, *programs, tensors)
        difference = model.strays()
    except (ValueError, RecursionError, TypeError) as error:
        raise CheckpointError(
            "E-CKPT-12", f"The network of {name!r} cannot be opened: {error}."
        ) from error
    if difference > _MOST_STRAYED:
        raise CheckpointError(
            "E-CKPT-13",
            f"This machine's torch computes another network than the one that {name!r} was "
            f"imported as (its outputs stray by {difference:.1g}): import it anew.",
        )
    return model


def _own(config: ModelConfig, weights: dict[str, np.ndarray], name: str) -> VAE:
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
        tensors[key] = torch.from_numpy(value.astype(np.float32))
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model


def reference_from(data: bytes, config: ModelConfig | ImportedConfig, name: str) -> Reference:
    """The reference statistics in the bytes of their file.

    Raises:
        CheckpointError: If they are damaged, incomplete, of other shapes, or not finite.
    """
    arrays, _ = _tensors(data, name)
    fields = {field: arrays.get(field) for field in Reference._fields}
    for error in _ERRORS:
        # Files of older versions have none.
        if fields[error] is None and fields["indices"] is not None:
            fields[error] = np.full(len(fields["indices"]), np.nan)
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
        if key not in _MAY_LACK and not np.isfinite(value).all():
            raise CheckpointError(
                "E-CKPT-08", f"{key} in the reference of {name!r} holds NaN or infinity."
            )
    return Reference(**fields)


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


def to_json(value: object, indent: int | None = None) -> str:
    """A value as JSON, in the one way whose bytes are compared."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def from_json(text: str) -> Any:  # noqa: ANN401
    """A value from strict JSON.

    Raises:
        ValueError: If it is none, says a key twice, or holds NaN or infinity.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}, which is no JSON number")

    return json.loads(text, parse_constant=refuse, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key stands there twice")
    return mapping
