"""The frozen description from which a VAE is built; it is stored beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vae.data.spec import ImageSpec

__all__ = [
    "Activation",
    "Binarize",
    "Centering",
    "Initialization",
    "LikelihoodName",
    "ModelConfig",
    "Network",
    "Sigma",
    "Spread",
    "default_widths",
]

Network = Literal["mlp", "conv", "resnet"]
Activation = Literal["gelu", "silu", "tanh", "relu"]
Binarize = Literal["none", "threshold", "dynamic"]
LikelihoodName = Literal[
    "bernoulli",
    "bernoulli_grey",
    "continuous_bernoulli",
    "gaussian",
    "laplace",
    "discretized_logistic",
]
Spread = Literal["shared", "pixel"]
Sigma = Literal["fixed", "learned", "optimal"]
Initialization = Literal["default", "xavier"]
Centering = Literal["half", "mean"]

# Fields that came after the first checkpoints. At these values they are left out of a stored
# description, so that a model that doesn't use them is described by the same bytes as ever.
_LATER: dict[str, Any] = {"blocks": 2, "initialization": "default", "centering": "half"}


@dataclass(frozen=True)
class ModelConfig:
    r"""Describes a VAE completely: :math:`q(z \mid x)`, :math:`p(x \mid z)` and :math:`p(z)`.

    Args:
        image: The shape and levels of the data.
        latent_dim: The number :math:`D` of latent dimensions.
        network: ``mlp`` (fully connected), ``conv`` (strided convolutions) or ``resnet``
            (residual blocks with group normalisation between them).
        hidden: Widths of the fully connected layers of the encoder; the decoder mirrors them.
        channels: Widths of the convolutions, for ``conv`` and ``resnet``; each halves the image.
        activation: The non-linearity; smooth ones let quadrature converge fast.
        sigma_floor: No posterior standard deviation lies below this.
        likelihood: The family of :math:`p(x \mid z)`.
        binarize: How a grey image becomes the binary one that the model sees: not at all,
            at one half (``threshold``), or by a coin for each pixel (``dynamic``).
        spread: Whether the scale of ``discretized_logistic`` is ``shared`` or per ``pixel``.
        gaussian_sigma: Whether the sigma of ``gaussian`` is ``fixed``, ``learned`` as one
            shared parameter, or ``optimal`` (Rybkin et al. 2021); frozen after training.
        sigma: The fixed or initial sigma of ``gaussian``.
        blocks: The number of residual blocks at each width, for ``resnet``.
        initialization: How weights begin: torch's ``default``, or ``xavier`` (Glorot & Bengio
            2010, uniform, biases 0), which suits tanh.
        centering: What is taken off an image before it is encoded: one ``half``, or the ``mean``
            image of the training data, which is then part of the weights.

    Raises:
        ValueError: If a field is outside its range; the message names the valid ones.
    """

    image: ImageSpec
    latent_dim: int = 2
    network: Network = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    channels: tuple[int, ...] = (32, 32, 64, 64)
    activation: Activation = "gelu"
    sigma_floor: float = 1e-3
    likelihood: LikelihoodName = "discretized_logistic"
    binarize: Binarize = "none"
    spread: Spread = "shared"
    gaussian_sigma: Sigma = "learned"
    sigma: float = 0.1
    blocks: int = 2
    initialization: Initialization = "default"
    centering: Centering = "half"

    def __post_init__(self) -> None:
        choices = {
            "network": Network,
            "activation": Activation,
            "likelihood": LikelihoodName,
            "binarize": Binarize,
            "spread": Spread,
            "gaussian_sigma": Sigma,
            "initialization": Initialization,
            "centering": Centering,
        }
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                valid = ", ".join(get_args(literal))
                raise ValueError(f"{name} must be one of {valid}, not {getattr(self, name)!r}.")
        # Bounds before any allocation: a damaged or hostile file must not ask for the machine.
        if not 1 <= self.latent_dim <= 512:
            raise ValueError(f"latent_dim must lie in 1..512, not {self.latent_dim!r}.")
        for name in ("hidden", "channels"):
            widths = getattr(self, name)
            if len(widths) > 16 or not all(1 <= width <= 8192 for width in widths):
                raise ValueError(f"{name} takes at most 16 widths in 1..8192, not {widths!r}.")
        if not 1e-6 <= self.sigma_floor < 1:
            raise ValueError(f"sigma_floor must lie in [1e-6, 1), not {self.sigma_floor!r}.")
        if not 1e-3 <= self.sigma <= 10:
            raise ValueError(f"sigma must lie in [0.001, 10], not {self.sigma!r}.")
        if not 1 <= self.blocks <= 16:
            raise ValueError(f"blocks must lie in 1..16, not {self.blocks!r}.")
        convolves = self.network != "mlp"
        if convolves and not self.channels:
            raise ValueError(f"network {self.network!r} needs at least one width in channels.")
        if convolves and min(self.image.height, self.image.width) < 2 ** len(self.channels):
            raise ValueError(
                f"{len(self.channels)} halvings are too many for {self.image.height}x"
                f"{self.image.width} pixels; give fewer channels."
            )
        binary = self.likelihood == "bernoulli"
        if binary and self.image.levels > 2 and self.binarize == "none":
            raise ValueError(
                "A Bernoulli likelihood needs pixels that are 0 or 1: binarise the grey ones "
                "(binarize 'threshold' or 'dynamic'), or choose the discretised logistic."
            )
        if not binary and self.binarize != "none":
            raise ValueError(
                f"binarize={self.binarize!r} goes with likelihood 'bernoulli' only, "
                f"not {self.likelihood!r}."
            )

    @property
    def levels(self) -> int:
        """The number of levels of a pixel as the model sees it."""
        return self.image.levels if self.binarize == "none" else 2

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        values = asdict(self)
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or value != _LATER[name]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuilds a config from JSON values, refusing unknown fields.

        Raises:
            ValueError: If a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields in the model config: {', '.join(unknown[:5])}.")
        try:
            tuples = {
                name: tuple(values[name]) for name in ("hidden", "channels") if name in values
            }
            config = cls(**{**values, **tuples, "image": ImageSpec(**values["image"])})
            sizes = (*config.image.shape, config.image.levels, config.latent_dim)
            for size in (*sizes, *config.hidden, *config.channels, config.blocks):
                if type(size) is not int:
                    raise TypeError(f"{size!r} should be a whole number")
            return config
        except (TypeError, KeyError) as error:
            raise ValueError(f"the model config is incomplete or malformed: {error}.") from error


def default_widths(network: Network, image: ImageSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths that suit a network for images of a size.

    Convolutions halve an image until its shorter side has 4 to 7 pixels.

    Args:
        network: The kind of network.
        image: The images.

    Returns:
        The widths of the fully connected layers, and those of the convolutions.
    """
    if network == "mlp":
        width = 256 if image.pixels <= 256 else 512 if image.pixels <= 4_096 else 1_024
        # The convolutions' are of no effect here; they are what they have always been.
        return (width, width), ModelConfig.channels
    halvings = min(8, max(1, (min(image.height, image.width) // 4).bit_length() - 1))
    if network == "resnet":
        return (256,), (32, 64, 128, 128, 256, 256, 256, 256)[:halvings]
    widths = (32, 32, 64, 64, 128, 128, 256, 256)
    # Few halvings leave a large map, which deserves the later widths.
    return (256,), widths[4 - halvings : 4] if halvings < 4 else widths[:halvings]
