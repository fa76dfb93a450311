"""The frozen description from which a VAE is built; it is stored beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vae.data.spec import ImageSpec

__all__ = ["Activation", "Binarize", "LikelihoodName", "ModelConfig", "Network"]

Network = Literal["mlp", "conv"]
Activation = Literal["gelu", "silu", "tanh", "relu"]
Binarize = Literal["none", "threshold", "dynamic"]
LikelihoodName = Literal[
    "bernoulli", "bernoulli_grey", "continuous_bernoulli", "gaussian", "discretized_logistic"
]
Spread = Literal["shared", "pixel"]
Sigma = Literal["fixed", "learned", "optimal"]


@dataclass(frozen=True)
class ModelConfig:
    r"""Describes a VAE completely: :math:`q(z \mid x)`, :math:`p(x \mid z)` and :math:`p(z)`.

    Args:
        image: The shape and levels of the data.
        latent_dim: The number :math:`D` of latent dimensions.
        network: ``mlp`` (fully connected) or ``conv`` (strided convolutions).
        hidden: Widths of the fully connected layers of the encoder; the decoder mirrors them.
        channels: Widths of the convolutions, for ``conv``; each halves the image.
        activation: The non-linearity; smooth ones let quadrature converge fast.
        sigma_floor: No posterior standard deviation lies below this.
        likelihood: The family of :math:`p(x \mid z)`.
        binarize: How a grey image becomes the binary one that the model sees: not at all,
            at one half (``threshold``), or by a coin for each pixel (``dynamic``).
        spread: Whether the scale of ``discretized_logistic`` is ``shared`` or per ``pixel``.
        gaussian_sigma: Whether the sigma of ``gaussian`` is ``fixed``, ``learned`` as one
            shared parameter, or ``optimal`` (Rybkin et al. 2021); frozen after training.
        sigma: The fixed or initial sigma of ``gaussian``.

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

    def __post_init__(self) -> None:
        choices = {
            "network": Network,
            "activation": Activation,
            "likelihood": LikelihoodName,
            "binarize": Binarize,
            "spread": Spread,
            "gaussian_sigma": Sigma,
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
        if self.network == "conv" and not self.channels:
            raise ValueError("network 'conv' needs at least one width in channels.")
        if self.network == "conv" and min(self.image.height, self.image.width) < 2 ** len(
            self.channels
        ):
            raise ValueError(
                f"{len(self.channels)} halvings are too many for {self.image.height}x"
                f"{self.image.width} pixels; give fewer channels."
            )
        binary = self.likelihood == "bernoulli"
        if binary and self.image.levels > 2 and self.binarize == "none":
            raise ValueError(
                "likelihood 'bernoulli' needs binary pixels: set binarize to 'threshold' or "
                "'dynamic', or choose 'discretized_logistic' for grey pixels."
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
        return asdict(self)

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
            for size in (*sizes, *config.hidden, *config.channels):
                if type(size) is not int:
                    raise TypeError(f"{size!r} should be a whole number")
            return config
        except (TypeError, KeyError) as error:
            raise ValueError(f"the model config is incomplete or malformed: {error}.") from error
