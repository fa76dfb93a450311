"""Everything that decides a training run; it builds the command line and is stored with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vae.data.spec import ImageSpec
from vae.model.config import (
    Activation,
    Binarize,
    Centering,
    Initialization,
    LikelihoodName,
    ModelConfig,
    Network,
    Sigma,
    Spread,
    default_widths,
)

__all__ = ["Objective", "TrainConfig"]

Objective = Literal["elbo", "beta", "capacity", "free_bits", "iwae", "beta_tc", "batch_moment_kl"]

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


@dataclass(frozen=True)
class TrainConfig:
    """Describes a training run.

    Args:
        data: The data set: digits, sprites or folder:PATH.
        image_size: The side in pixels that images of a folder are brought to, or their height.
        image_width: Their width in pixels, where they are not to be square.
        image_channels: 1 (grey) or 3 (colour), for images of a folder.
        keep_copies_together: Let images of a folder that equal each other come into one split, so
            that no held-out image is trained on.
        fit: How images of a folder that have other proportions are brought to these: padded with
            the colour of their border, squashed, or cut off on both sides.
        bits: The bits of greys that were saved unscaled in 16-bit files of a folder, such as the
            12 of a detector.
        allow_tiff: Read TIFF files of a folder too.
        network: Fully connected (mlp), convolutional (conv) or residual (resnet).
        hidden: Widths of the fully connected layers; left out, they suit the image's size.
        channels: Widths of the convolutions, each of which halves the image; left out, they suit
            the image's size.
        blocks: Residual blocks at each width of a resnet.
        activation: The non-linearity.
        initialization: How weights begin: torch's default, or xavier, which suits tanh.
        centering: What is taken off the encoder's input: one half, or the mean training image.
        latent_dim: The number of latent dimensions.
        sigma_floor: No posterior standard deviation lies below this.
        likelihood: The family of p(x|z).
        binarize: How grey pixels become binary for the Bernoulli likelihood.
        spread: One scale for all pixels of the discretised logistic, or one for each.
        gaussian_sigma: How the sigma of the Gaussian likelihood is found.
        sigma: The fixed or initial sigma of the Gaussian likelihood.
        objective: What is maximised. For each image by itself: the elbo; beta, which weights its
            KL; capacity, which holds its KL at a value; free_bits, which charges each dimension a
            minimum; iwae, the importance-weighted bound. Over a whole batch: beta_tc, which
            weights the total correlation; and batch_moment_kl, the mistaken reading that
            penalises the batch's moments (a contrast for teaching).
        beta: The weight of the KL under objective beta, of the total correlation under beta_tc.
        beta_schedule: How beta is reached: at once (constant), once (warm_up), or again and again
            (cyclical).
        beta_steps: The steps of the warm-up, or of one cycle (half of it rising).
        capacity: The KL of an image in nats at which objective capacity holds it in the end.
        capacity_weight: The weight of the distance to the capacity.
        capacity_steps: The steps in which the capacity rises from 0.
        free_nats: The least that objective free_bits charges a dimension, in nats.
        free_bits_over: Where that minimum holds: for each sample, or, as published, for the mean
            of the minibatch.
        iwae_samples: The k of objective iwae.
        tc_estimator: How beta_tc estimates the aggregate posterior from a batch: weighted, as
            published, or stratified, which is unbiased.
        moment_weight: The weight of the penalty under objective batch_moment_kl.
        input_noise: Standard deviation of noise on what the encoder sees, in training only.
        steps: The number of optimiser steps.
        max_minutes: End after so many minutes of training if the steps haven't; 0 sets no limit.
            The learning rate then follows whichever of the two is further on.
        batch_size: The number of images a step, over all processes.
        learning_rate: The peak learning rate.
        warmup_steps: The steps until the peak.
        schedule: The learning rate after the warm-up: a cosine to zero, constant, or constant
            until the last quarter and then linear to zero.
        weight_decay: The decoupled weight decay of AdamW.
        ema: The decay of the averaged weights, which are the ones evaluated and kept.
        clip: The largest norm of the gradient.
        evaluate_every: The steps between evaluations on the validation split.
        validation_images: The most validation images that such an evaluation looks at.
        patience: End when so many evaluations in a row brought nothing better; 0 never does.
        draws: Draws for the reference ELBOs where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound of the reference images.
        evidence_images: The most reference images whose exact log p(x) is computed where there
            are at most 2 latent dimensions, evenly spread; 0 for none. It takes thousands of
            decodings an image.
        seed: The seed of everything random.
        device: Where to train: auto takes a GPU if there is one.
        precision: The arithmetic of the network. auto is bfloat16 on a GPU that has it, and
            float32 elsewhere, so that on a CPU the same seed gives the same weights.
        compile: Whether torch.compile translates the step, which takes a minute or two at first;
            auto is off.
        data_memory: Training images of more than so many GB are read from disk batch by batch.
        title: The model's name for people.
        description: What the model is for, in a sentence.

    Raises:
        ValueError: If a field is out of range or has no effect; the message says what is valid.
    """

    data: str = "digits"
    image_size: int = 64
    image_width: int | None = None
    image_channels: Literal[1, 3] = 3
    keep_copies_together: bool = False
    fit: Literal["pad", "squash", "cut"] = "pad"
    bits: Literal["8", "10", "12", "14", "16"] = "16"
    allow_tiff: bool = False
    network: Network = "mlp"
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    blocks: int = 2
    activation: Activation = "gelu"
    initialization: Initialization = "default"
    centering: Centering = "half"
    latent_dim: int = 2
    sigma_floor: float = 1e-3
    likelihood: LikelihoodName = "discretized_logistic"
    binarize: Binarize = "none"
    spread: Spread = "shared"
    gaussian_sigma: Sigma = "learned"
    sigma: float = 0.1
    objective: Objective = "elbo"
    beta: float = 1.0
    beta_schedule: Literal["constant", "warm_up", "cyclical"] = "constant"
    beta_steps: int = 1_000
    capacity: float = 25.0
    capacity_weight: float = 100.0
    capacity_steps: int = 1_000
    free_nats: float = 0.5
    free_bits_over: Literal["sample", "minibatch"] = "sample"
    iwae_samples: int = 5
    tc_estimator: Literal["weighted", "stratified"] = "weighted"
    moment_weight: float = 4.0
    input_noise: float = 0.0
    steps: int = 2_000
    max_minutes: float = 0.0
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant", "constant_then_linear"] = "cosine"
    weight_decay: float = 1e-4
    ema: float = 0.995
    clip: float = 10.0
    evaluate_every: int = 200
    validation_images: int = 1_000
    patience: int = 0
    draws: int = 64
    importance_samples: int = 1_000
    evidence_images: int = 1_000
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    data_memory: float = 4.0
    title: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sides(self) -> tuple[int, int]:
        """The height and width in pixels that images of a folder are brought to."""
        return self.image_size, self.image_size if self.image_width is None else self.image_width

    def widths(self, image: ImageSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """``hidden`` and ``channels``, chosen by the image's size where they were left out."""
        hidden, channels = default_widths(self.network, image)
        return (
            hidden if self.hidden is None else tuple(self.hidden),
            channels if self.channels is None else tuple(self.channels),
        )

    def model(self, image: ImageSpec) -> ModelConfig:
        """The model's part of this config, for images of a given kind.

        Raises:
            ValueError: If the model's fields don't fit each other or the images.
        """
        own = {field.name for field in fields(self)}
        shared = {
            field.name: getattr(self, field.name)
            for field in fields(ModelConfig)
            if field.name in own
        }
        hidden, channels = self.widths(image)
        return ModelConfig(**{**shared, "image": image, "hidden": hidden, "channels": channels})

    def resolved(self, image: ImageSpec) -> TrainConfig:
        """This config with the widths written out that suit images of a kind."""
        hidden, channels = self.widths(image)
        return replace(self, hidden=hidden, channels=None if self.network == "mlp" else channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Rebuilds a config from JSON values.

        Raises:
            ValueError: If a field is unknown or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields in the run's config: {', '.join(unknown[:5])}.")
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )


def _check(config: TrainConfig) -> None:
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
    if not -(2**63) <= config.seed < 2**63:
        raise ValueError(f"seed must lie in -2^63..2^63-1, not {config.seed!r}.")
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
