r"""The gradients of :math:`\log p(x \mid z)` and :math:`\log p(z)` with respect to the code."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.elbo.terms import log_likelihood
from vae.elbo.tiles import decoder_rows
from vae.model.face import LatentModel

__all__ = ["log_likelihood_gradients", "log_prior_gradients"]


def log_likelihood_gradients(model: LatentModel, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""The log-likelihood of one image at many codes, or of each image at its own, and its slope.

    It may be called under ``torch.inference_mode``, which scoring runs in. The codes are decoded
    in pieces of bounded size, so memory doesn't grow with their number.

    Args:
        model: The model.
        x: The image, with shape :math:`(C, H, W)`, or one for each code, :math:`(N, C, H, W)`.
        z: The codes, with shape :math:`(N, D)`.

    Returns:
        :math:`\log p(x \mid z_n)` in nats, float64, with shape :math:`(N,)`, and its gradient
        :math:`\nabla_z \log p(x \mid z_n)`, float64, with shape :math:`(N, D)`.
    """
    values, gradients = [], []
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, because a tensor born under inference mode cannot take part in a gradient.
        x, parts = x.clone(), z.clone().split(decoder_rows(model.image))
        start = 0
        for part in parts:
            images = x if x.dim() == 3 else x[start : start + len(part)]
            codes = part.to(x.dtype).requires_grad_()
            value = log_likelihood(model.decode(codes), images)
            (gradient,) = torch.autograd.grad(value.sum(), codes)
            values.append(value.detach())
            gradients.append(gradient.double())
            start += len(part)
    return torch.cat(values), torch.cat(gradients)


def log_prior_gradients(model: LatentModel, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""The prior's log-density at codes :math:`(N, D)`, and its slope there.

    Returns:
        :math:`\log p(z_n)` in nats with shape :math:`(N,)`, and its gradient :math:`(N, D)`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        codes = z.clone().requires_grad_()
        value = model.prior.log_prob(codes)
        (gradient,) = torch.autograd.grad(value.sum(), codes)
    return value.detach(), gradient
