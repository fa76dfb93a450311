"""Exact numbers against an account of their own, on images that a model knows and does not.

The account is written from the formulas. With the product it shares what the numbers are about:
what the model sees of an image, `encode`, `decode` and the standard normal prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vae.data.datasets import DataMissing, open_data
from vae.elbo.gaps import best_gaussian
from vae.elbo.scoring import sample_receipt, sample_scores
from vae.model.checkpoint import Checkpoint
from vae.model.originals import originals
from vae.model.vae import observe

MODELS = [
    "digits-2d", "digits-2d-beta-0.1", "digits-2d-beta-0.3", "digits-2d-beta-3",
    "digits-2d-beta-10", "digits-binary-2d", "digits-binary-2d-batch-moment", "mnist-2d",
]  # fmt: skip
KINDS = ("own", "inverted", "blank", "white", "noise", "shifted", "foreign")
# Decoded at once, as pixel values.
AT_ONCE = 2**22


def images_of(model: Checkpoint, kind: str, count: int) -> np.ndarray:
    """Levels of images of a kind, (count, C, H, W)."""
    shape, most = model.config.image.shape, model.config.image.levels - 1
    generator = np.random.default_rng(KINDS.index(kind))
    if kind == "blank":
        return np.zeros((1, *shape), np.uint8)
    if kind == "white":
        return np.full((1, *shape), most, np.uint8)
    if kind == "noise":
        return generator.integers(0, most + 1, (count, *shape)).astype(np.uint8)
    if kind == "foreign":
        other = open_data("digits" if shape[-1] > 8 else "sprites")
        drawn = other.read(np.linspace(0, 699, count).astype(int))[:, 0]
        scaled = [
            Image.fromarray(image * np.uint8(255 // (other.spec.levels - 1))).resize(
                shape[:0:-1], Image.Resampling.BILINEAR
            )
            for image in drawn
        ]
        return (np.stack(scaled)[:, None] * (most / 255)).round().astype(np.uint8)
    try:
        own = originals(model, np.linspace(0, model.reference.size - 1, count).astype(int))
    except DataMissing:
        pytest.skip("the images of this model are not on this machine")
    if kind == "inverted":
        return (most - own).astype(np.uint8)
    return np.roll(own, 1, -1) if kind == "shifted" else own


class Account(NamedTuple):
    """Values of some images in nats, (B,), and what they may be off."""

    value: Tensor
    error: Tensor


def expected_log_likelihood(model: Checkpoint, x: Tensor, mu: Tensor, sigma: Tensor) -> Account:
    """The mean of log p(x|z) under N(mu, sigma^2), one image after the other."""
    values, errors = [], []
    for image, centre, width in zip(x, mu, sigma, strict=True):
        sums: list[float] = []
        spacing = 0.25
        while len(sums) < 2 or (abs(sums[-1] - sums[-2]) > 1e-5 and spacing > 0.02):
            axis = torch.arange(-round(8 / spacing), round(8 / spacing) + 1).double() * spacing
            e = torch.cartesian_prod(*[axis] * len(centre)).reshape(-1, len(centre))
            weight = torch.exp(-e.square().sum(-1) / 2)
            e, weight = e[weight > math.exp(-32)], weight[weight > math.exp(-32)]
            log_p = torch.cat(
                [
                    model.model.decode(z.float()).log_prob(image).double()
                    for z in (centre + width * e).split(AT_ONCE // image.numel())
                ]
            )
            sums.append(float((weight * log_p).sum() / weight.sum()))
            spacing /= 2
        values.append(sums[-1])
        errors.append(abs(sums[-1] - sums[-2]))
    return Account(torch.tensor(values).double(), torch.tensor(errors).double())


def log_evidence(model: Checkpoint, x: Tensor) -> Account:
    """The log of the mean of p(x|z) under the prior."""
    value, error = by_lattice(model, x, 7.0, 0.02)
    far = error.isinf()
    if far.any():
        value[far], error[far] = by_lattice(model, x[far], 28.0, 0.05)
    return Account(value, error)


def by_lattice(model: Checkpoint, x: Tensor, half: float, step: float) -> Account:
    """On one lattice over [-half, half]^2 for all images; where mass lies outside, the error is inf."""
    axis = torch.arange(-round(half / step), round(half / step) + 1)
    index = torch.cartesian_prod(axis, axis)
    z = index.double() * step
    flat = x.flatten(1)
    levels = flat.unique()
    # log p of a pixel depends on nothing but its code and its level, so a table has them all.
    chosen = torch.cat([flat == level for level in levels], 1).float().T.contiguous()
    parts = []
    for codes in z.split(AT_ONCE // chosen.shape[0]):
        pixels = model.model.decode(codes.float()).base_dist
        shape = (len(codes), *x.shape[1:])
        table = [pixels.log_prob(level.expand(shape)).flatten(1) for level in levels]
        parts.append(torch.cat(table, 1).clamp_min(-1e4) @ chosen)
    joint = torch.cat(parts).double()
    joint += (-z.square() / 2 - 0.5 * math.log(2 * math.pi)).sum(-1)[:, None]
    value = joint.logsumexp(0) + 2 * math.log(step)
    coarse = joint[(index % 2 == 0).all(-1)].logsumexp(0) + 2 * math.log(2 * step)
    edge = joint[(index.abs() == index.max()).any(-1)].logsumexp(0) + 2 * math.log(step) - value
    error = (value - coarse).abs() + torch.exp(edge) + 4e-7 * value.abs()
    return Account(value, torch.where(edge > math.log(1e-6), math.inf, error))


def scored(model: Checkpoint, count: int) -> tuple[np.ndarray, Tensor, list[str]]:
    kinds = {kind: images_of(model, kind, count) for kind in KINDS}
    levels = np.concatenate(list(kinds.values()))
    names = [f"{kind} {n}" for kind, some in kinds.items() for n in range(len(some))]
    return levels, observe(model.config, levels), names


def check(model: Checkpoint, count: int) -> None:
    """Every exact number within its printed error of the account, of so many images a kind."""
    levels, x, names = scored(model, count)
    with torch.inference_mode():
        scores = sample_scores(model.model, levels, evidence=True)
        mu, sigma = scores.mu, scores.sigma
        account = expected_log_likelihood(model, x, mu, sigma)
        evidence = log_evidence(model, x)
    kl = (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).sum(-1)
    report("ELBO", scores.terms.elbo, scores.elbo_error, account._replace(value=account.value - kl), names)
    report("log p(x)", scores.log_evidence, scores.log_evidence_error, evidence, names)


def report(what, value, error, account, names):
    off = (value - account.value).abs()
    bad = ~(off <= error + account.error)
    print(what, "bad", int(bad.sum()), "of", len(off), "nan", int(value.isnan().sum()), "account inf", int(account.error.isinf().sum()), "account>1e-3", int((account.error > 1e-3).sum()), "error>1e-3", int((error > 1e-3).sum()), "max error", float(error.nan_to_num().max()), "max off", float(torch.where(account.error<1, off, 0).nan_to_num().max()))
    for n in bad.nonzero().flatten().tolist()[:12]:
        print("  ", names[n], float(value[n]), float(error[n]), float(account.value[n]), float(account.error[n]))
