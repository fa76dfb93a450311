"""Elboscope: look inside a VAE, one sample at a time.

    import vae

    model = vae.load("checkpoints/digits-2d")
    q = model.encode(x)                  # q(z|x), a torch Distribution
    rows = vae.score(model, x)           # one row for each image, in nats

Names are resolved on first use, so that importing one room does not import the house.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adaptation": "vae.data.images.adaptation",
    "Checkpoint": "vae.store.checkpoint",
    "CheckpointError": "vae.store.contents",
    "ImageRefused": "vae.data.images.decoding",
    "ImageSpec": "vae.data.spec",
    "ModelConfig": "vae.model.config",
    "Elbo": "vae.elbo.expectation",
    "Receipt": "vae.elbo.expectation",
    "Reference": "vae.store.contents",
    "ScoreRow": "vae.scoring.rows",
    "Scorer": "vae.scoring.scorer",
    "Seen": "vae.elbo.seen",
    "TrainConfig": "vae.training.config",
    "VAE": "vae.model.vae",
    "calibration_of": "vae.scoring.calibration_sets",
    "calibrations": "vae.scoring.calibration_sets",
    "evaluate": "vae.scoring.evaluation",
    "load": "vae.store.registry",
    "open_data": "vae.data.sets.datasets",
    "prepare": "vae.scoring.files",
    "preprocess": "vae.data.images.adaptation",
    "read_image": "vae.data.images.decoding",
    "estimate_elbo": "vae.elbo.expectation",
    "score": "vae.scoring.scores",
    "see": "vae.elbo.seen",
    "take_apart": "vae.elbo.expectation",
    "to_image": "vae.data.images.encoding",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module 'vae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
