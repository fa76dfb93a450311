"""Everything that decides a training run; it builds the command line and is stored with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vae.data.spec import ImageSpec
from vae.model.config import (
    Activation,
    Binarize,
    LikelihoodName,
    ModelConfig,
    Network,
    Sigma,
    Spread,
)

__all__ = ["Objective", "TrainConfig"]

Objective = Literal["elbo", "beta", "batch_moment_kl"]


@dataclass(frozen=True)
class TrainConfig:
    """Describes a training run.

    Args:
        data: The data set: digits, sprites or folder:PATH.
        image_size: The side in pixels that images of a folder are brought to.
        image_channels: 1 (grey) or 3 (colour), for images of a folder.
        network: Fully connected (mlp) or convolutional (conv).
        hidden: Widths of the fully connected layers.
        channels: Widths of the convolutions, each of which halves the image.
        activation: The non-linearity.
        latent_dim: The number of latent dimensions.
        sigma_floor: No posterior standard deviation lies below this.
        likelihood: The family of p(x|z).
        binarize: How grey pixels become binary for the Bernoulli likelihood.
        spread: One scale for all pixels of the discretised logistic, or one for each.
        gaussian_sigma: How the sigma of the Gaussian likelihood is found.
        sigma: The fixed or initial sigma of the Gaussian likelihood.
        objective: What is maximised: the elbo; beta, which weights its KL; or batch_moment_kl,
            the mistaken reading that penalises the batch's moments (a contrast for teaching).
        beta: The weight of the KL under objective beta.
        moment_weight: The weight of the penalty under objective batch_moment_kl.
        input_noise: Standard deviation of noise on what the encoder sees, in training only.
        steps: The number of optimiser steps.
        batch_size: The number of images a step.
        learning_rate: The peak learning rate; it warms up and follows a cosine to zero.
        warmup_steps: The steps until the peak.
        weight_decay: The decoupled weight decay of AdamW.
        ema: The decay of the averaged weights, which are the ones evaluated and kept.
        clip: The largest norm of the gradient.
        evaluate_every: The steps between evaluations on the validation split.
        draws: Draws for the reference ELBOs where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound of the reference images.
        seed: The seed of everything random.
        device: Where to train: auto takes a GPU if there is one.
        title: The model's name for people.
        description: What the model is for, in a sentence.
    """

    data: str = "digits"
    image_size: int = 64
    image_channels: Literal[1, 3] = 3
    network: Network = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    channels: tuple[int, ...] = (32, 32, 64, 64)
    activation: Activation = "gelu"
    latent_dim: int = 2
    sigma_floor: float = 1e-3
    likelihood: LikelihoodName = "discretized_logistic"
    binarize: Binarize = "none"
    spread: Spread = "shared"
    gaussian_sigma: Sigma = "learned"
    sigma: float = 0.1
    objective: Objective = "elbo"
    beta: float = 1.0
    moment_weight: float = 4.0
    input_noise: float = 0.0
    steps: int = 2_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.995
    clip: float = 10.0
    evaluate_every: int = 200
    draws: int = 64
    importance_samples: int = 1_000
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    title: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "evaluate_every", "draws", "image_size")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}.")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be above 0 and finite, not {getattr(self, name)!r}."
                )
        rest = ("beta", "moment_weight", "input_noise", "weight_decay", "warmup_steps")
        for name in (*rest, "importance_samples"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be at least 0 and finite, not {getattr(self, name)!r}."
                )
        if self.objective not in get_args(Objective):
            valid = ", ".join(get_args(Objective))
            raise ValueError(f"objective must be one of {valid}, not {self.objective!r}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), not {self.ema!r}.")
        if self.beta != 1 and self.objective != "beta":
            raise ValueError(f"beta={self.beta} takes effect only with --objective beta.")

    def model(self, image: ImageSpec) -> ModelConfig:
        """The model's part of this config, for images of a given kind.

        Raises:
            ValueError: If the model's fields don't fit each other or the images.
        """
        return ModelConfig(
            image=image,
            latent_dim=self.latent_dim,
            network=self.network,
            hidden=tuple(self.hidden),
            channels=tuple(self.channels),
            activation=self.activation,
            sigma_floor=self.sigma_floor,
            likelihood=self.likelihood,
            binarize=self.binarize,
            spread=self.spread,
            gaussian_sigma=self.gaussian_sigma,
            sigma=self.sigma,
        )
