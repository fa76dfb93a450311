"""The runs behind the shipped checkpoints, by name."""

from __future__ import annotations

from dataclasses import replace

from vae.training.config import TrainConfig

__all__ = ["DEFAULT_PRESET", "PRESETS"]

DEFAULT_PRESET = "digits-2d"

_DIGITS = TrainConfig(
    data="digits",
    likelihood="discretized_logistic",
    # Noise on the encoder's input is what keeps 1,098 images from being learnt by heart.
    input_noise=0.15,
    title="Handwritten digits, 2-D",
    description="Grey 8×8 digits on a plane that can be looked at whole: every number about it "
    "is exact. The place to start.",
)

_BINARY = replace(
    _DIGITS,
    likelihood="bernoulli",
    binarize="threshold",
    # Both models of the pair stand on the same floor; only the mistaken one falls to it.
    sigma_floor=0.01,
    title="Binary digits, 2-D",
    description="Digits thresholded to black and white, trained with the ELBO. One half of the "
    "pair that shows why the KL belongs to each image.",
)

PRESETS: dict[str, TrainConfig] = {
    "digits-2d": _DIGITS,
    "digits-binary-2d": _BINARY,
    "digits-binary-2d-batch-moment": replace(
        _BINARY,
        objective="batch_moment_kl",
        title="Binary digits, 2-D, mistaken KL",
        description="The same network, data and seed, trained on purpose with the mistaken "
        "reading of the KL: a penalty on the batch's moments. A contrast, not a model to use.",
    ),
    "digits-10d": replace(
        _DIGITS,
        latent_dim=10,
        title="Handwritten digits, 10-D",
        description="The same digits with ten latent dimensions: better likelihood, and room to "
        "see which dimensions are used.",
    ),
    "sprites-10d": TrainConfig(
        data="sprites",
        network="conv",
        hidden=(256,),
        latent_dim=10,
        likelihood="bernoulli",
        activation="silu",
        steps=6_000,
        batch_size=128,
        learning_rate=1e-3,
        warmup_steps=200,
        ema=0.998,
        evaluate_every=500,
        importance_samples=64,
        title="Sprites, 10-D",
        description="Synthetic 64×64 shapes with known shape, size, rotation and place: films of "
        "its latent dimensions show which of them it found.",
    ),
}
