r"""The per-sample terms of the ELBO: the only KL and the only likelihood term in the project.

.. math::
    \mathrm{ELBO}(x) = E_{q(z \mid x)}[\log p(x \mid z)] - KL(q(z \mid x) \,\|\, p(z))
    \le \log p(x)

Everything here returns one number for each image, :math:`(B,)`, or one for each image and latent
dimension, :math:`(B, D)`. Nothing is summed or averaged over the batch: the KL is charged to each
image's own posterior. Unit: nats.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eq. 3 and appendix B,
    | https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.model.face import LatentModel, pixel_log_likelihood

__all__ = [
    "Terms",
    "kl_per_dim",
    "log_density",
    "log_likelihood",
    "sampled_terms",
    "standard_normal_kl",
    "standard_normal_log_density",
]


class Terms(NamedTuple):
    r"""The terms of each image's ELBO.

    Attributes:
        expected_log_likelihood: :math:`E_q[\log p(x \mid z)]` in nats, with shape :math:`(B,)`.
        kl_per_dim: :math:`KL_d` in nats, with shape :math:`(B, D)`.
    """

    expected_log_likelihood: Tensor
    kl_per_dim: Tensor

    @property
    def kl(self) -> Tensor:
        r"""The KL of each image, summed over latent dimensions, with shape :math:`(B,)`."""
        return self.kl_per_dim.sum(-1)

    @property
    def elbo(self) -> Tensor:
        r"""The ELBO of each image, with shape :math:`(B,)`."""
        return self.expected_log_likelihood - self.kl


def standard_normal_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""The closed-form KL of a Gaussian to the standard normal.

    .. math:: KL(N(\mu, \sigma^2) \| N(0, 1)) = \tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)

    Args:
        mu: The mean :math:`\mu`, with any shape.
        log_variance: :math:`\log \sigma^2`, with the same shape.

    Returns:
        The divergence in nats, element by element, with the same shape.
    """
    return 0.5 * (mu.square() + torch.expm1(log_variance) - log_variance)


def kl_per_dim(posterior: Distribution) -> Tensor:
    r"""The KL of each image and latent dimension to the standard normal prior.

    Args:
        posterior: :math:`q(z \mid x)`, diagonal Gaussian, batch :math:`(B)`, event :math:`(D)`.

    Returns:
        :math:`KL_d` in nats, with shape :math:`(B, D)`.
    """
    return standard_normal_kl(posterior.mean, 2 * posterior.stddev.log())


def log_likelihood(
    likelihood: Distribution, x: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""The log-likelihood of each image, :math:`\log p(x \mid z)`, summed over its pixels.

    Args:
        likelihood: :math:`p(x \mid z)`, batch :math:`(*)`, event :math:`(C, H, W)`.
        x: The images, with shape :math:`(*, C, H, W)`.
        dtype: The type in which pixels are summed; float64 makes the sum independent of layout.

    Returns:
        Nats, with shape :math:`(*)`.
    """
    return pixel_log_likelihood(likelihood, x).sum((-3, -2, -1), dtype=dtype)


def log_density(mu: Tensor, sigma: Tensor, z: Tensor) -> Tensor:
    r"""The log-density of a diagonal Gaussian, :math:`\log N(z; \mu, \sigma^2)`.

    Args:
        mu: The mean, broadcastable to :math:`(*, D)`.
        sigma: The standard deviation, broadcastable to :math:`(*, D)`.
        z: The codes, with shape :math:`(*, D)`.

    Returns:
        Nats, with shape :math:`(*)`.
    """
    e = (z - mu) / sigma
    # Summed one by one: fewer passes over all codes than summing their combination.
    squares, log_scale = e.square().sum(-1), torch.log(sigma).expand_as(e).sum(-1)
    return -0.5 * (squares + e.shape[-1] * math.log(2 * math.pi)) - log_scale


def standard_normal_log_density(z: Tensor) -> Tensor:
    r"""The log-density of the standard normal at codes :math:`(*, D)`, in nats, :math:`(*)`."""
    return log_density(torch.zeros(1), torch.ones(1), z)


def sampled_terms(
    model: LatentModel, x: Tensor, noise: Tensor, encoder_noise: Tensor | float = 0.0
) -> tuple[Terms, Distribution, Distribution]:
    r"""The terms with one reparameterised draw for each image, as training uses them.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`.
        noise: Standard normals :math:`\epsilon`, with shape :math:`(B, D)`.
        encoder_noise: Added to what the encoder sees, never to what is explained.

    Returns:
        The terms, the posterior :math:`q(z \mid x)` and the likelihood :math:`p(x \mid z)`.
    """
    # Adding nothing would still copy the images.
    silent = isinstance(encoder_noise, float) and encoder_noise == 0
    posterior = model.encode(x if silent else x + encoder_noise)
    likelihood = model.decode(posterior.mean + posterior.stddev * noise)
    # One type for the whole step: training needs speed, scoring sums in float64.
    terms = Terms(log_likelihood(likelihood, x, dtype=x.dtype), kl_per_dim(posterior))
    return terms, posterior, likelihood
