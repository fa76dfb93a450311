r"""A model that was trained elsewhere, as data: its networks are programs.

``encode`` gives the mean and standard deviation of a diagonal Gaussian :math:`q(z \mid x)`;
``decode`` gives the raw parameters of :math:`p(x \mid z)`, its last one a scale where the network
predicts it; the prior is :math:`N(0, I)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal

from vae.data.spec import ImageSpec
from vae.model.config import Binarize, LikelihoodName
from vae.model.likelihoods import (
    BernoulliLogits,
    ContinuousBernoulli,
    DiscretizedLogistic,
    facts_of,
)
from vae.model.program import Program, ProgramError, relative_difference
from vae.model.vae import Described

__all__ = ["PROGRAMS", "ImportedConfig", "ImportedVAE", "Scale", "probed"]

Scale = Literal["none", "fixed", "predicted"]

PROGRAMS = ("encode", "decode")

# Names of what one image and one code gave when the model was imported.
_PROBE = "probe."
_MOST_DIMENSIONS = 16_384


@dataclass(frozen=True)
class ImportedConfig:
    r"""Describes an imported model beside its networks.

    Args:
        image: The shape and levels of its images.
        latent: The shape of a code, such as (10,) or (4, 32, 32); :math:`D` is its product.
        likelihood: The family of :math:`p(x \mid z)`.
        binarize: How a grey image becomes the binary one that the model sees.
        scale: Whether the spread of a pixel is one ``fixed`` number, ``predicted`` by the decoder,
            or ``none`` (a Bernoulli has none).
        sigma: The fixed spread, in the units of [0, 1].

    Raises:
        ValueError: If a field is outside its range; the message names the valid ones.
    """

    image: ImageSpec
    latent: tuple[int, ...]
    likelihood: LikelihoodName
    binarize: Binarize = "none"
    scale: Scale = "none"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        for name, literal in (
            ("likelihood", LikelihoodName), ("binarize", Binarize), ("scale", Scale),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(literal):
                valid = ", ".join(get_args(literal))
                raise ValueError(f"{name} must be one of {valid}, not {getattr(self, name)!r}.")
        if not 1 <= len(self.latent) <= 3 or not all(
            type(size) is int and size >= 1 for size in self.latent
        ):
            raise ValueError(f"latent must be one to three sizes, not {self.latent!r}.")
        if not self.latent_dim <= _MOST_DIMENSIONS:
            raise ValueError(
                f"a code has at most {_MOST_DIMENSIONS:,} dimensions, not {self.latent_dim:,}."
            )
        if (self.scale == "none") == facts_of(self.likelihood).has_scale:
            raise ValueError(f"scale={self.scale!r} doesn't go with {self.likelihood!r}.")
        if not 1e-6 <= self.sigma <= 1e3:
            raise ValueError(f"sigma must lie in [1e-6, 1000], not {self.sigma!r}.")
        binary = self.likelihood == "bernoulli"
        if binary and self.image.levels > 2 and self.binarize == "none":
            raise ValueError(
                "A Bernoulli likelihood needs pixels that are 0 or 1: binarise the grey ones "
                "(threshold or dynamic), or say bernoulli_grey."
            )
        if not binary and self.binarize != "none":
            raise ValueError(
                f"binarize goes with likelihood 'bernoulli', not {self.likelihood!r}."
            )

    @property
    def latent_dim(self) -> int:
        """The number :math:`D` of latent dimensions."""
        return math.prod(self.latent)

    @property
    def levels(self) -> int:
        """The number of levels of a pixel as the model sees it."""
        return self.image.levels if self.binarize == "none" else 2

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        return {"kind": "imported", **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImportedConfig:
        """Rebuilds a config from JSON values, refusing unknown fields.

        Raises:
            ValueError: If a field is unknown, missing or out of range.
        """
        values = {name: value for name, value in values.items() if name != "kind"}
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields in the model config: {', '.join(unknown[:5])}.")
        try:
            image = ImageSpec(**values["image"])
            config = cls(**{**values, "image": image, "latent": tuple(values["latent"])})
            for size in (*image.shape, image.levels):
                if type(size) is not int:
                    raise TypeError(f"{size!r} should be a whole number")
            return config
        except (TypeError, KeyError) as error:
            raise ValueError(f"the model config is incomplete or malformed: {error}.") from error


class ImportedVAE(Described, nn.Module):
    """A model whose networks are data. It wears the face of :mod:`vae.model.face`.

    Args:
        config: What it is beside its networks.
        encoder: Images (B, C, H, W) in [0, 1] to mean and standard deviation, each (B, D).
        decoder: Codes (B, D) to parameters of the likelihood, each (B, C, H, W).
        tensors: The tensors of both by name.

    Raises:
        ProgramError: If a network lacks a tensor, is too large, or gives other shapes.
    """

    def __init__(
        self,
        config: ImportedConfig,
        encoder: Program,
        decoder: Program,
        tensors: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.config = config
        self.programs = dict(zip(PROGRAMS, (encoder, decoder), strict=True))
        self.tensors = dict(tensors)
        needed = {*encoder.weights, *decoder.weights}
        if lacking := sorted(needed - set(tensors)):
            raise ProgramError(f"the tensor {lacking[0][:60]!r} is missing")
        code, image = (config.latent_dim,), config.image.shape
        parts = 2 if config.scale == "predicted" else 1
        self._check(encoder, "encode", image, [code, code])
        self._check(decoder, "decode", code, [image] * parts)

    def _check(
        self, program: Program, what: str, given: tuple[int, ...], wanted: list[tuple[int, ...]]
    ) -> None:
        """Refuses a network that costs too much or gives other shapes than it should."""
        rows = program.rows or 2
        found = program.cost((rows, *given), self.tensors).outputs
        if list(found) != [(rows, *shape) for shape in wanted]:
            raise ProgramError(
                f"{what} gives {' and '.join(map(str, found))}, not "
                f"{' and '.join(str((rows, *shape)) for shape in wanted)}"
            )

    def encode(self, x: Tensor) -> Independent:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""
        mu, sigma = self._run("encode", x)
        return Independent(Normal(mu, sigma, validate_args=False), 1, validate_args=False)

    def decode(self, z: Tensor) -> Independent:
        r"""The likelihood :math:`p(x \mid z)`, batch :math:`(B)`, event :math:`(C, H, W)`."""
        raw, *scale = self._run("decode", z)
        spread = scale[0] if scale else torch.full((), self.config.sigma, dtype=raw.dtype)
        return Independent(self._pixel(raw, spread), 3, validate_args=False)

    def _pixel(self, raw: Tensor, scale: Tensor) -> Distribution:
        match self.config.likelihood:
            case "continuous_bernoulli":
                return ContinuousBernoulli(raw)
            case "gaussian":
                return Normal(raw, scale.expand_as(raw), validate_args=False)
            case "laplace":
                return Laplace(raw, scale.expand_as(raw), validate_args=False)
            case "discretized_logistic":
                return DiscretizedLogistic(raw, scale, self.config.levels)
        return BernoulliLogits(logits=raw, validate_args=False)

    def strays(self) -> float:
        """How far the networks stray from what they gave at import, relative to its size."""
        worst = 0.0
        for what, shape in zip(PROGRAMS, (self.image.shape, (self.latent_dim,)), strict=True):
            given = self.tensors.get(f"{_PROBE}{what}")
            if given is None or given.shape != (1, *shape):
                raise ProgramError("there is no probe of what it computed when it was imported")
            try:
                outputs = self._run(what, given)
            except (RuntimeError, LookupError, TypeError, NotImplementedError) as error:
                said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise ProgramError(f"{what} cannot be computed: {said}") from error
            for i, now in enumerate(outputs):
                then = self.tensors.get(f"{_PROBE}{what}.{i}")
                if then is None or then.shape != now.shape:
                    raise ProgramError(f"the probe of {what} has another shape")
                worst = max(worst, relative_difference(then, now))
        return worst

    def _run(self, what: str, x: Tensor) -> tuple[Tensor, ...]:
        """A network's outputs; where it takes but one number of rows, in parts of that many."""
        program = self.programs[what]
        if program.rows is None:
            return program.run(x, self.tensors)
        found = []
        for part in x.split(program.rows):
            missing = program.rows - len(part)
            full = (
                torch.cat((part, part[-1:].expand(missing, *part.shape[1:]))) if missing else part
            )
            found.append([one[: len(part)] for one in program.run(full, self.tensors)])
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def probed(model: ImportedVAE, x: Tensor, z: Tensor) -> ImportedVAE:
    """The model with a probe: what one image (1, C, H, W) and one code (1, D) give now."""
    for what, given in zip(PROGRAMS, (x, z), strict=True):
        model.tensors[f"{_PROBE}{what}"] = given.contiguous()
        for i, output in enumerate(model._run(what, given)):
            model.tensors[f"{_PROBE}{what}.{i}"] = output.detach().clone().contiguous()
    return model
