r"""The loss of each image of a batch, as one module from pixels to nats.

One module, because that is what ``torch.compile`` translates and what several processes keep in
step; everything random comes in as an argument.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae.elbo.terms import Terms, kl_per_dim, log_density, log_likelihood, sampled_terms
from vae.model.vae import VAE
from vae.processes import ALONE, Processes
from vae.training.config import TrainConfig
from vae.training.loss.batch_objectives import free_bits_penalty, moment_penalty, total_correlation
from vae.training.loss.objectives import (
    beta_loss,
    capacity_loss,
    elbo_loss,
    free_bits_loss,
    iwae_loss,
)

__all__ = ["BatchLoss", "TrainingLoss"]


class BatchLoss(NamedTuple):
    r"""What a step knows of its images.

    Attributes:
        loss: The loss of each image in nats, with shape :math:`(B,)`.
        expected_log_likelihood: One draw's :math:`\log p(x \mid z)` in nats, :math:`(B,)`.
        kl_per_dim: :math:`KL_d` in nats, with shape :math:`(B, D)`.
        squared_error: Mean squared error of the reconstruction, a scalar without gradient; only
            where the likelihood refits its sigma, else 0.
    """

    loss: Tensor
    expected_log_likelihood: Tensor
    kl_per_dim: Tensor
    squared_error: Tensor


class TrainingLoss(nn.Module):
    """Computes each image's loss under a config's objective.

    Args:
        model: The model.
        config: Names the objective and its constants.
        images: The number of training images.
        processes: Those that share a batch.
    """

    def __init__(
        self, model: VAE, config: TrainConfig, images: int, processes: Processes = ALONE
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.images = images
        self.processes = processes
        self.scheduled = config.objective == "capacity" or config.beta_schedule != "constant"
        self.refits = config.likelihood == "gaussian" and config.gaussian_sigma == "optimal"

    def forward(
        self, x: Tensor, noise: Tensor, blur: Tensor | float = 0.0, setting: Tensor | None = None
    ) -> BatchLoss:
        r"""Computes the losses.

        Args:
            x: The images, with shape :math:`(B, C, H, W)`.
            noise: Standard normals, with shape :math:`(B, D)`; :math:`(B, k, D)` for ``iwae``.
            blur: Added to what the encoder sees.
            setting: The scheduled beta or capacity; none where there is no schedule.
        """
        config, gather = self.config, self.processes.gather
        if config.objective == "iwae":
            return self._iwae(x, noise, blur)
        terms, posterior, likelihood = sampled_terms(self.model, x, noise, blur)
        match config.objective:
            case "elbo":
                loss = elbo_loss(terms)
            case "beta":
                loss = beta_loss(terms, config.beta if setting is None else setting)
            case "capacity":
                loss = capacity_loss(terms, config.capacity_weight, setting)
            case "free_bits" if config.free_bits_over == "sample":
                loss = free_bits_loss(terms, config.free_nats)
            # From here on a number of the batch is added to every image.
            case "free_bits":
                penalty = free_bits_penalty(terms.kl_per_dim, config.free_nats, gather)
                loss = penalty - terms.expected_log_likelihood
            case "beta_tc":
                correlation = total_correlation(
                    posterior.mean + posterior.stddev * noise,
                    gather(posterior.mean),
                    gather(posterior.stddev),
                    self.processes.rank * len(x),
                    self.images,
                    config.tc_estimator,
                )
                loss = elbo_loss(terms) + (config.beta - 1) * correlation
            case "batch_moment_kl":
                penalty = moment_penalty(posterior, gather)
                loss = config.moment_weight * penalty - terms.expected_log_likelihood
        return BatchLoss(loss, *terms, self._squared_error(likelihood, x))

    def _iwae(self, x: Tensor, noise: Tensor, blur: Tensor | float) -> BatchLoss:
        posterior = self.model.encode(x + blur if isinstance(blur, Tensor) else x)
        mu, sigma = posterior.mean[:, None], posterior.stddev[:, None]
        z = mu + sigma * noise
        likelihood = self.model.decode(z.flatten(0, 1))
        draws = noise.shape[1]
        repeated = x.repeat_interleave(draws, 0)
        explained = log_likelihood(likelihood, repeated, dtype=x.dtype).unflatten(0, (-1, draws))
        zero, one = torch.zeros_like(mu), torch.ones_like(mu)
        log_weights = explained + log_density(zero, one, z) - log_density(mu, sigma, z)
        terms = Terms(explained.mean(1), kl_per_dim(posterior))
        return BatchLoss(iwae_loss(log_weights), *terms, self._squared_error(likelihood, repeated))

    @torch.no_grad()
    def _squared_error(self, likelihood: torch.distributions.Distribution, x: Tensor) -> Tensor:
        if not self.refits:
            return torch.zeros((), device=x.device)
        return (x - likelihood.mean).square().mean()
