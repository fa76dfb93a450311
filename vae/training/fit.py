r"""Fits a VAE: one loop, read top to bottom.

The data lie in memory as integer levels and are indexed, so that the loop is limited by
arithmetic. Averaged weights (EMA) are what is evaluated and kept. The same seed on the same
machine gives the same weights, bit for bit.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vae.data.datasets import ImageData
from vae.elbo.scoring import sample_scores
from vae.elbo.terms import sampled_terms
from vae.model.vae import VAE
from vae.training.config import TrainConfig
from vae.training.objectives import per_sample_loss

__all__ = ["Diverged", "Fitted", "choose_device", "fit"]


class Diverged(RuntimeError):
    """Raised when the loss is no longer finite."""


class Fitted(NamedTuple):
    """The outcome of a run.

    Attributes:
        model: The model with the averaged weights of the best evaluation, on the CPU.
        history: One mapping for each evaluation.
        best_step: The step of the kept weights.
        seconds: The wall time of the loop.
        device: The device it ran on.
    """

    model: VAE
    history: list[dict[str, Any]]
    best_step: int
    seconds: float
    device: str


def choose_device(name: str) -> torch.device:
    """Resolves ``auto`` to a GPU if there is one, else the CPU.

    Raises:
        ValueError: If the named device isn't there.
    """
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(choice for choice in ("cuda", "mps", "cpu") if available[choice])
    if not available[name]:
        usable = ", ".join(choice for choice, there in available.items() if there)
        raise ValueError(f"device {name!r} is not available here; choose one of: {usable}.")
    return torch.device(name)


def fit(config: TrainConfig, data: ImageData, progress: bool = True) -> Fitted:
    """Trains a VAE.

    Args:
        config: The run.
        data: The data set; only its train and validation splits are read.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The best model on the validation split by the ELBO, whatever the objective; except under
        ``batch_moment_kl``, whose point is where it ends, so that its last weights are kept.

    Raises:
        Diverged: If the loss stops being finite.
    """
    device = choose_device(config.device)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = VAE(config.model(data.spec))
    generator = torch.Generator().manual_seed(config.seed)
    levels = torch.from_numpy(data.read(data.splits.train))
    validation = data.read(data.splits.validation)
    steps = data.spec.levels - 1
    mean = levels.to(torch.float64).mean(0).to(torch.float32) / steps
    model.decoder.start_at_(mean)
    model.to(device).train()
    levels = levels.to(device)

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type != "mps",
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    averaged = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
    )

    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    best_elbo, best_step = -math.inf, 0
    order = torch.empty(0, dtype=torch.long)
    running = torch.zeros(3, device=device)
    start = time.perf_counter()
    bar = tqdm(range(1, config.steps + 1), disable=not progress, file=sys.stderr, unit="step")
    for step in bar:
        if len(order) < min(config.batch_size, len(levels)):
            order = torch.randperm(len(levels), generator=generator)
        batch, order = order[: config.batch_size], order[config.batch_size :]
        x = levels[batch.to(device)].to(torch.float32) / steps
        if config.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
        elif config.binarize == "dynamic":
            x = (torch.rand(x.shape, generator=generator).to(device) < x).to(x.dtype)

        noise = torch.randn((len(x), config.latent_dim), generator=generator).to(device)
        blur: Tensor | float = 0.0
        if config.input_noise:
            blur = config.input_noise * torch.randn(x.shape, generator=generator).to(device)
        terms, posterior, likelihood = sampled_terms(model, x, noise, blur)
        # The only mean over the batch in the project: each image's own loss, then their average.
        loss = per_sample_loss(config, terms, posterior).mean()

        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        if not torch.isfinite(norm):
            bar.close()
            raise Diverged(
                f"The loss is no longer finite at step {step}; lower --learning-rate or raise "
                "--warmup-steps."
            )
        optimizer.step()
        schedule.step()
        model.decoder.likelihood.adapt_(likelihood, x)
        averaged.update_parameters(model)
        with torch.no_grad():
            parts = (terms.elbo, terms.kl, -terms.expected_log_likelihood)
            running += torch.stack([part.mean() for part in parts])

        if step % config.evaluate_every == 0 or step == config.steps:
            since = step - (history[-1]["step"] if history else 0)
            record = _evaluate(averaged.module, validation, config, device)
            if not math.isfinite(record["elbo"]):
                bar.close()
                raise Diverged(
                    f"The validation ELBO is no longer finite at step {step}; lower "
                    "--learning-rate."
                )
            train = dict(
                zip(("elbo", "rate", "distortion"), (running / since).tolist(), strict=True)
            )
            running.zero_()
            record = {
                "step": step,
                "seconds": round(time.perf_counter() - start, 3),
                "learning_rate": schedule.get_last_lr()[0],
                "train": train,
                "validation": record,
            }
            history.append(record)
            bar.set_postfix_str(
                f"validation ELBO {record['validation']['elbo']:.2f} nats, "
                f"rate {record['validation']['rate']:.2f}"
            )
            if record["validation"]["elbo"] > best_elbo or config.objective == "batch_moment_kl":
                best_elbo, best_step = record["validation"]["elbo"], step
                state = averaged.module.state_dict()
                best = {name: value.detach().cpu().clone() for name, value in state.items()}

    model.cpu().load_state_dict(best)
    return Fitted(
        model=model.eval().requires_grad_(False),
        history=history,
        best_step=best_step,
        seconds=time.perf_counter() - start,
        device=_device_name(device),
    )


def _rate(step: int, config: TrainConfig) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))


def _evaluate(
    model: VAE, levels: np.ndarray, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    model.eval()
    # Scores are a CPU matter: one place computes them, and validation is small.
    scored = sample_scores(model.cpu(), levels, draws=min(8, config.draws), seed=config.seed)
    model.to(device)
    return {
        "elbo": float(scored.terms.elbo.mean()),
        "rate": float(scored.terms.kl.mean()),
        "distortion": float(-scored.terms.expected_log_likelihood.mean()),
        "kl_per_dim": scored.terms.kl_per_dim.mean(0).tolist(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
