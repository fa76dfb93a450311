r"""How a foreign model is wired: what its encoder is fed and what its two outputs mean.

A model says ``encode`` and ``decode`` in many ways. Here they become two functions of tensors:
images :math:`(B, C, H, W)` in [0, 1] to the mean and standard deviation of :math:`q(z \mid x)`,
each :math:`(B, D)`; and codes :math:`(B, D)` to the raw parameters of :math:`p(x \mid z)`, each
:math:`(B, C, H, W)`, in the coordinates of [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae.data.spec import ImageSpec
from vae.importing.choices import Layout, Output, Packing, Pixels, Second
from vae.importing.tracing import Refused
from vae.model.config import LikelihoodName
from vae.model.likelihoods import facts_of

__all__ = ["Wiring", "adapted", "module_of", "moments"]

# The names under which models offer the two, in the order in which they are looked for.
_NAMES = (("encode", "decode"), ("encoder", "decoder"), ("_encode", "_decode"), ("q_z", "p_x"))
_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Wiring:
    r"""What is known of a foreign model.

    Args:
        image: The shape and levels of its images.
        likelihood: The family of :math:`p(x \mid z)`.
        pixels: The range of what ``encode`` is fed and, for a mean, of what ``decode`` returns.
        offset: With ``scale_by``, pixels are fed as (x - offset) / scale_by, channel by channel,
            instead of by ``pixels``.
        scale_by: See ``offset``.
        layout: Whether an image is (C, H, W), (H, W, C) or flat.
        latent: The shape of a code, such as (10,) or (4, 32, 32).
        second: What the encoder's second output is.
        packing: Whether the two come as a pair, or as halves of one tensor, or take turns in it.
        output: What the decoder returns.
    """

    image: ImageSpec
    likelihood: LikelihoodName
    latent: tuple[int, ...]
    pixels: Pixels = "0..1"
    offset: tuple[float, ...] = ()
    scale_by: tuple[float, ...] = ()
    layout: Layout = "nchw"
    second: Second = "log_variance"
    packing: Packing = "pair"
    output: Output = "mean"

    def __post_init__(self) -> None:
        choices = {"pixels": Pixels, "layout": Layout, "second": Second, "packing": Packing,
                   "output": Output, "likelihood": LikelihoodName}  # fmt: skip
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(literal))}, "
                    f"not {getattr(self, name)!r}."
                )
        for name in ("offset", "scale_by"):
            if len(getattr(self, name)) not in (0, 1, self.image.channels):
                raise ValueError(f"{name} takes one number, or one for each channel.")
        if bool(self.offset) != bool(self.scale_by) or not all(self.scale_by or (1.0,)):
            raise ValueError("offset and scale_by go together, and no scale is 0.")

    def to_dict(self) -> dict[str, Any]:
        """The wiring as plain JSON values."""
        return asdict(self)

    @property
    def is_unit(self) -> bool:
        """Whether the model takes pixels in [0, 1] as they are."""
        return not self.scale_by and self.pixels == "0..1"

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Scale and offset, (1, C, 1, 1), from [0, 1] to what the model is fed."""
        if self.scale_by:
            scale = 1 / torch.tensor(self.scale_by)
            return scale.view(1, -1, 1, 1), (-torch.tensor(self.offset) * scale.flatten()).view(
                1, -1, 1, 1
            )
        scale, offset = {"0..1": (1.0, 0.0), "-1..1": (2.0, -1.0), "0..255": (255.0, 0.0)}[
            self.pixels
        ]
        return torch.full((1, 1, 1, 1), scale), torch.full((1, 1, 1, 1), offset)

    def fed(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (B, C, H, W), as the model is fed."""
        if not self.is_unit:
            scale, offset = self._affine()
            x = x * scale + offset
        if self.layout == "nhwc":
            return x.permute(0, 2, 3, 1)
        return x.flatten(1) if self.layout == "flat" else x

    def image_of(self, y: Tensor) -> Tensor:
        """What the decoder returns, as (B, C, H, W)."""
        if self.layout == "nhwc" and y.dim() == 4:
            return y.permute(0, 3, 1, 2)
        return y.reshape(y.shape[0], *self.image.shape)

    def in_unit(self, y: Tensor) -> Tensor:
        """A mean in the model's own coordinates, in those of [0, 1]."""
        if self.is_unit:
            return y
        scale, offset = self._affine()
        return (y - offset) / scale


def adapted(
    foreign: Any,  # noqa: ANN401
    wiring: Wiring,
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor], tuple[Tensor, ...]]]:
    """The two functions of a foreign model; see above.

    Args:
        foreign: The model: an object with ``encode`` and ``decode`` (or ``encoder`` and
            ``decoder``, or ...), or a pair of callables.
        wiring: How it is wired.

    Raises:
        Refused: If it has none.
    """
    decode = _parts(foreign)[1]

    def encoded(x: Tensor) -> tuple[Tensor, Tensor]:
        mu, sigma = moments(foreign, wiring, x)
        return mu.flatten(1), sigma.flatten(1)

    def decoded(z: Tensor) -> tuple[Tensor, ...]:
        return _raw(decode(z.reshape(z.shape[0], *wiring.latent)), wiring)

    return encoded, decoded


def moments(foreign: Any, wiring: Wiring, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    r"""The mean and standard deviation of :math:`q(z \mid x)`, in the shape that it has there."""
    return _moments(_parts(foreign)[0](wiring.fed(x)), wiring)


def _parts(foreign: Any) -> tuple[Callable, Callable]:  # noqa: ANN401
    if isinstance(foreign, tuple | list) and len(foreign) == 2:
        return foreign[0], foreign[1]
    if isinstance(foreign, Mapping) and {"encode", "decode"} <= set(foreign):
        return foreign["encode"], foreign["decode"]
    for names in _NAMES:
        found = [getattr(foreign, name, None) for name in names]
        if all(callable(one) for one in found):
            return found[0], found[1]
    raise Refused(
        f"{type(foreign).__name__} has no encode and decode (nor encoder and decoder): return a "
        "pair of functions (encode, decode) from build()."
    )


def module_of(foreign: Any) -> nn.Module:  # noqa: ANN401
    """One module that holds all of a foreign model's weights, at rest and in float32."""
    if isinstance(foreign, nn.Module):
        return foreign.eval().float()
    found: dict[int, nn.Module] = {}
    for part in (*_parts(foreign), foreign):
        held = [part, getattr(part, "__self__", None)]
        held += [cell.cell_contents for cell in getattr(part, "__closure__", None) or ()]
        held += list(getattr(part, "__dict__", {}).values())
        for one in held:
            if isinstance(one, nn.Module):
                found[id(one)] = one.eval().float()
    return nn.ModuleList(found.values())


def _moments(returned: Any, wiring: Wiring) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """The mean and standard deviation in what an encoder returned."""
    returned = getattr(returned, "latent_dist", returned)
    if isinstance(returned, Distribution):
        return returned.mean, returned.stddev
    if isinstance(returned, Mapping) and "embedding" in returned:
        if "log_covariance" not in returned:
            raise Refused("encode returns a point and no spread: the model has no q(z|x).")
        return returned["embedding"], _sigma(returned["log_covariance"], "log_variance")
    if not isinstance(returned, Tensor | tuple | list) and hasattr(returned, "mean"):
        if hasattr(returned, "std"):
            return returned.mean, returned.std
    if isinstance(returned, Tensor):
        return _unpacked(returned, wiring)
    if isinstance(returned, tuple | list) and len(returned) >= 2:
        first, second = returned[0], returned[1]
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            if wiring.packing != "pair":
                raise Refused(f"encode returns {len(returned)} tensors, so the packing is a pair.")
            return first, _sigma(second, wiring.second)
    raise Refused(
        f"encode returns {_described(returned)}: it should return the mean and the spread of "
        "q(z|x), as a pair of tensors, one tensor of both, or a torch Distribution."
    )


def _unpacked(both: Tensor, wiring: Wiring) -> tuple[Tensor, Tensor]:
    if wiring.packing == "pair":
        raise Refused(
            f"encode returns one tensor of shape {_shape(both)}: say by --packing whether mean "
            "and spread are its halves or are interleaved."
        )
    if wiring.packing == "halves":
        mu, second = both.chunk(2, dim=1)
    else:
        mu, second = both.reshape(both.shape[0], -1, 2).unbind(-1)
    return mu, _sigma(second, wiring.second)


def _sigma(second: Tensor, kind: Second) -> Tensor:
    match kind:
        case "log_variance":
            return torch.exp(0.5 * second)
        case "log_sigma":
            return torch.exp(second)
        case "variance":
            return torch.sqrt(second)
        case "softplus_sigma":
            return nn.functional.softplus(second)
    return second


def _raw(returned: Any, wiring: Wiring) -> tuple[Tensor, ...]:  # noqa: ANN401
    """The raw parameters of p(x|z) in what a decoder returned."""
    if not isinstance(returned, Tensor | Distribution) and hasattr(returned, "sample"):
        returned = returned.sample
    if isinstance(returned, Mapping) and "reconstruction" in returned:
        returned = returned["reconstruction"]
    scale = None
    if isinstance(returned, Distribution):
        returned, scale = _parameters(returned)
    elif isinstance(returned, tuple | list) and returned and isinstance(returned[0], Tensor):
        if len(returned) >= 2 and wiring.output == "mean_and_log_scale":
            scale = torch.exp(returned[1])
        returned = returned[0]
    if not isinstance(returned, Tensor):
        raise Refused(
            f"decode returns {_described(returned)}: it should return a tensor of pixels, or a "
            "torch Distribution."
        )
    y = wiring.image_of(returned)
    if not facts_of(wiring.likelihood).has_scale:
        return (y if wiring.output == "logit" else torch.logit(y, _LEAST_PROBABILITY),)
    if wiring.output in ("logit", "probability"):
        return (torch.sigmoid(y) if wiring.output == "logit" else y,)
    mean = wiring.in_unit(y)
    if wiring.output == "mean":
        return (mean,)
    if scale is None:
        raise Refused("decode returns no scale, so its output is not mean_and_log_scale.")
    scale = wiring.image_of(scale.expand_as(returned))
    # A spread in the model's own coordinates shrinks with them.
    return mean, scale if wiring.is_unit else scale / wiring._affine()[0]


def _parameters(p: Distribution) -> tuple[Tensor, Tensor | None]:
    """What a distribution of pixels is made of: logits, or location and scale."""
    p = getattr(p, "base_dist", p)
    if hasattr(p, "logits"):
        return p.logits, None
    if hasattr(p, "loc") and hasattr(p, "scale"):
        return p.loc, p.scale
    raise Refused(
        f"decode returns a {type(p).__name__}, which is not one of the likelihoods here."
    )


def _described(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, tuple | list):
        return f"{len(value)} values of {', '.join(sorted({type(one).__name__ for one in value}))}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return "×".join(str(int(size)) for size in tensor.shape[1:])
