"""What a training run may ask for: ranges, choices, and no flag without an effect."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from vae.training.config import TrainConfig

__all__ = ["check"]

_AT_LEAST_1 = (
    "steps", "batch_size", "evaluate_every", "validation_images", "draws", "image_size",
    "beta_steps", "iwae_samples",
)  # fmt: skip
_ABOVE_0 = ("learning_rate", "clip", "data_memory")
_AT_LEAST_0 = (
    "beta", "capacity", "capacity_weight", "capacity_steps", "free_nats", "moment_weight",
    "input_noise", "weight_decay", "warmup_steps", "max_minutes", "patience",
    "importance_samples", "evidence_images",
)  # fmt: skip

# These take effect only where the images are the files of a folder.
_OF_FOLDERS = ("keep_copies_together", "fit", "bits", "allow_tiff")
# A field takes effect only where another has one of these values.
_NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "beta": ("objective", ("beta", "beta_tc")),
    "beta_schedule": ("objective", ("beta",)),
    "beta_steps": ("beta_schedule", ("warm_up", "cyclical")),
    "capacity": ("objective", ("capacity",)),
    "capacity_weight": ("objective", ("capacity",)),
    "capacity_steps": ("objective", ("capacity",)),
    "free_nats": ("objective", ("free_bits",)),
    "free_bits_over": ("objective", ("free_bits",)),
    "iwae_samples": ("objective", ("iwae",)),
    "tc_estimator": ("objective", ("beta_tc",)),
    "moment_weight": ("objective", ("batch_moment_kl",)),
    "channels": ("network", ("conv", "resnet")),
    "blocks": ("network", ("resnet",)),
    "spread": ("likelihood", ("discretized_logistic",)),
    "gaussian_sigma": ("likelihood", ("gaussian",)),
    "sigma": ("likelihood", ("gaussian",)),
}


def check(config: TrainConfig) -> None:
    """Refuses a config that cannot be meant, in one sentence.

    Raises:
        ValueError: If a field is out of range, no valid choice, or without effect.
    """
    for name in _AT_LEAST_1:
        if not getattr(config, name) >= 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)!r}.")
    for name in _ABOVE_0:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, not {getattr(config, name)!r}.")
    for name in _AT_LEAST_0:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(
                f"{name} must be at least 0 and finite, not {getattr(config, name)!r}."
            )
    if not 0 <= config.ema < 1:
        raise ValueError(f"ema must lie in [0, 1), not {config.ema!r}.")
    for name, valid in _choices(config).items():
        if getattr(config, name) not in valid:
            known = ", ".join(map(str, valid))
            raise ValueError(f"{name} must be one of {known}, not {getattr(config, name)!r}.")
    if not 1 <= config.sides[1]:
        raise ValueError(f"image_width must be at least 1, not {config.image_width!r}.")
    defaults = {field.name: field.default for field in fields(config)}
    for name in _OF_FOLDERS:
        given = getattr(config, name)
        if given != defaults[name] and not config.data.startswith("folder:"):
            raise ValueError(f"{name}={given} takes effect only with --data folder:PATH.")
    for name, (owner, values) in _NEEDS.items():
        given = getattr(config, name)
        if given != defaults[name] and getattr(config, owner) not in values:
            flag = owner.replace("_", "-")
            raise ValueError(
                f"{name}={_written(given)} takes effect only with --{flag} {' or '.join(values)}."
            )


def _choices(config: TrainConfig) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(type(config))
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _written(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
