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

_SPRITES = TrainConfig(
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
)

# All 60,000 training images; the held-out images are test images, which choose nothing.
_MNIST = TrainConfig(
    data="mnist:full",
    likelihood="bernoulli",
    binarize="dynamic",
    activation="tanh",
    initialization="xavier",
    centering="mean",
    hidden=(200, 200),
    batch_size=512,
    learning_rate=4e-3,
    warmup_steps=500,
    weight_decay=0.0,
    ema=0.9995,
    evaluate_every=5_000,
    importance_samples=1_000,
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
    **{
        f"digits-2d-beta-{beta:g}": replace(
            _DIGITS,
            objective="beta",
            beta=beta,
            title=f"Digits, 2-D, β = {beta:g}",
            description="A step of a ladder: the digits-2d model with another weight on its KL, "
            "and nothing else changed.",
        )
        for beta in (0.1, 0.3, 3.0, 10.0)
    },
    "sprites-10d": _SPRITES,
    "sprites-10d-beta4": replace(
        _SPRITES,
        objective="beta",
        beta=4.0,
        title="Sprites, 10-D, β = 4",
        description="The sprites-10d model with four times the weight on its KL: its codes say "
        "half as many nats, and its pictures are blurred for it.",
    ),
    "mnist-burda": replace(
        _MNIST,
        latent_dim=50,
        steps=300_000,
        max_minutes=20.0,
        precision="bfloat16",
        compile="on",
        title="MNIST, 50-D, after Burda et al.",
        description="The one-layer architecture of Burda et al. (2016), 784-200-200-50 with "
        "tanh, on dynamically binarised digits.",
    ),
    "mnist-best": replace(
        _MNIST,
        network="conv",
        channels=(16, 32),
        hidden=(256,),
        latent_dim=32,
        activation="silu",
        initialization="default",
        objective="iwae",
        iwae_samples=5,
        batch_size=128,
        learning_rate=2e-3,
        steps=100_000,
        precision="bfloat16",
        compile="on",
        title="MNIST, 32-D, the best of these",
        description="A convolutional model of binarised digits trained with the "
        "importance-weighted bound of five draws: the highest log p(x) here.",
    ),
    "mnist-2d": replace(
        _MNIST,
        latent_dim=2,
        steps=20_000,
        title="MNIST, 2-D",
        description="Binarised 28×28 digits on a plane that can be looked at whole.",
    ),
}
