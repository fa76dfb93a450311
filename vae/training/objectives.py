r"""Training objectives: functions of the per-sample terms.

Each returns one loss for each image, :math:`(B,)`; the single mean over the batch stands in the
training loop, where the loss is formed. ``batch_moment_kl`` is the exception that the product
exists to explain: its penalty belongs to no image.

References:
    | beta-VAE (Higgins et al., 2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from vae.elbo.aggregate import batch_moment_kl
from vae.elbo.terms import Terms
from vae.training.config import TrainConfig

__all__ = ["per_sample_loss"]


def per_sample_loss(config: TrainConfig, terms: Terms, posterior: Distribution) -> Tensor:
    r"""The loss of each image under a config's objective.

    Args:
        config: Names the objective and its weights.
        terms: The ELBO's terms, each :math:`(B,)` or :math:`(B, D)`.
        posterior: :math:`q(z \mid x)` of the batch, for the whole-batch contrast.

    Returns:
        The loss in nats, with shape :math:`(B,)`.
    """
    match config.objective:
        case "elbo":
            return -terms.elbo
        case "beta":
            return config.beta * terms.kl - terms.expected_log_likelihood
        case "batch_moment_kl":
            # One number for the batch, added to every image: what the mistaken reading does.
            penalty = batch_moment_kl(posterior.mean, posterior.variance).sum()
            return config.moment_weight * penalty - terms.expected_log_likelihood
