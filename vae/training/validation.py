"""The evaluations during a run, which choose its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.elbo.terms import Terms, sampled_terms
from vae.model.vae import VAE, observe
from vae.training.config import TrainConfig

__all__ = ["validate"]

_DRAWS = 8
_AT_ONCE = 256


def validate(
    model: VAE, levels: np.ndarray, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Means of the true ELBO and its terms over validation images, in nats.

    Args:
        model: The model, on its device.
        levels: The images' levels, ``uint8``, :math:`(N, C, H, W)`.
        config: The run.
        device: Where the model lies.
    """
    model.eval()
    if device.type == "cpu":
        seen = see(model, levels, config.seed)
        terms = estimate_elbo(seen, min(_DRAWS, config.draws)).terms
    else:
        terms = on_device(model, levels, config, device)
    return {
        "elbo": float(terms.elbo.mean()),
        "rate": float(terms.kl.mean()),
        "distortion": float(-terms.expected_log_likelihood.mean()),
        "kl_per_dim": terms.kl_per_dim.mean(0).tolist(),
    }


@torch.inference_mode()
def on_device(model: VAE, levels: np.ndarray, config: TrainConfig, device: torch.device) -> Terms:
    """The terms by a few draws from the same noise each time, where the model lies.

    Scores proper are a CPU matter; a GPU would wait for them longer than it trains.
    """
    generator = torch.Generator().manual_seed(config.seed)
    found = []
    for part in observe(model.config, levels, config.seed).split(_AT_ONCE):
        x = part.to(device)
        draws = []
        for _ in range(min(_DRAWS, config.draws)):
            noise = torch.randn((len(x), config.latent_dim), generator=generator).to(device)
            draws.append(sampled_terms(model, x, noise)[0])
        explained = torch.stack([terms.expected_log_likelihood for terms in draws]).mean(0)
        found.append(Terms(explained.cpu().double(), draws[0].kl_per_dim.cpu().double()))
    return Terms(*(torch.cat(column) for column in zip(*found, strict=True)))
