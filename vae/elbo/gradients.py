r"""The gradients of :math:`\log p(x \mid z)` and :math:`\log p(z)` with respect to the code."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.elbo.terms import log_likelihood
from vae.elbo.tiles import decoder_rows
from vae.model.face import LatentModel

__all__ = ["log_likelihood_gradients", "log_prior_gradients", "paired_gradients"]


def log_likelihood_gradients(
    model: LatentModel, image: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    r"""One image's log-likelihood at many codes, and its slope there.

    It may be called under ``torch.inference_mode``, which scoring runs in. The codes are decoded
    in pieces of bounded size, so memory doesn't grow with their number.

    Args:
        model: The model.
        image: The image, with shape :math:`(C, H, W)`.
        z: The codes, with shape :math:`(N, D)`.

    Returns:
        :math:`\log p(x \mid z_n)` in nats, float64, with shape :math:`(N,)`, and its gradient
        :math:`\nabla_z \log p(x \mid z_n)`, float64, with shape :math:`(N, D)`.
    """
    values, gradients = [], []
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, because a tensor born under inference mode cannot take part in a gradient.
        image = image.clone()
        for part in z.clone().split(decoder_rows(model.image)):
            codes = part.to(image.dtype).requires_grad_()
            value = log_likelihood(model.decode(codes), image)
            (gradient,) = torch.autograd.grad(value.sum(), codes)
            values.append(value.detach())
            gradients.append(gradient.double())
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


def paired_gradients(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    r"""The slope of each image's log-likelihood at a code of its own.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`.
        z: Their codes, with shape :math:`(B, D)`.

    Returns:
        :math:`\nabla_z \log p(x_b \mid z_b)`, float64, with shape :math:`(B, D)`.
    """
    rows, gradients = decoder_rows(model.image), []
    with torch.inference_mode(False), torch.enable_grad():
        for images, codes in zip(x.clone().split(rows), z.clone().split(rows), strict=True):
            own = codes.to(x.dtype).requires_grad_()
            value = log_likelihood(model.decode(own), images)
            gradients.append(torch.autograd.grad(value.sum(), own)[0].double())
    return torch.cat(gradients)
