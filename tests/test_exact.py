"""Exact numbers against an account of their own, on images that a model knows and does not.

The account is written from the formulas. With the product it shares what the numbers are about:
what the model sees of an image, `encode`, `decode` and the standard normal prior.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import few_digits
from PIL import Image
from torch import Tensor

from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import DataMissing
from vae.elbo.evidence.quadrature import exact_evidence
from vae.elbo.expectation import estimate_elbo, take_apart
from vae.elbo.gap.gap_split import best_gaussian, gap_split
from vae.elbo.lattice import FIRST_LEVEL, expect, lattice_nodes
from vae.elbo.lessons.derivation import hermite_nodes
from vae.elbo.seen import see
from vae.elbo.tiles import node_log_likelihoods
from vae.scoring.scores import score_levels
from vae.store.checkpoint import Checkpoint
from vae.store.originals import originals

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
    """The log of the integral of p(x|z) p(z).

    By cells, small ones on [-7, 7]^2 and larger ones as far as 45. Those within 25 nats of the
    image's greatest, and those around them, are integrated by a lattice of their own; what the
    others hold counts as error.
    """
    inner, outer = lattice(70, 0.1), lattice(150, 0.3)
    around = (outer.abs() > 7.05).any(-1)
    cells = torch.cat((inner, outer[around]))
    sides = torch.full((len(cells),), 0.3, dtype=torch.float64)
    sides[: len(inner)] = 0.1
    # What a cell holds if it is as high everywhere as in its middle.
    held = log_joint(model, x, cells) + 2 * sides.log()[:, None]
    values, errors = [], []
    for n in range(len(x)):
        chosen = held[:, n] > held[:, n].max() - 25
        wide = torch.zeros(len(outer))
        wide[around] = chosen[len(inner) :].float()
        near = torch.cat((spread(chosen[: len(inner)]), spread(wide)[around]))
        sums, parts = [held[near, n].logsumexp(0)], 1
        rounding = 4e-7 * float(sums[0].abs())
        # Two lattices may agree by chance on a narrow peak, not on one of many cells.
        fewest = 2 if near.sum() > 2_000 else 3
        while len(sums) < fewest or (abs(sums[-1] - sums[-2]) > 2e-5 + rounding and parts < 16):
            parts *= 2
            offsets = lattice(parts // 2, 1 / parts)
            offsets = offsets[(offsets < 0.5).all(-1)]
            z = (cells[near][:, None] + sides[near][:, None, None] * offsets).reshape(-1, 2)
            shares = (2 * (sides[near] / parts).log()).repeat_interleave(len(offsets))
            sums.append((log_joint_of_one(model, x[n], z) + shares).logsumexp(0))
        left = held[~near, n].logsumexp(0)
        values.append(torch.logaddexp(sums[-1], left))
        errors.append((sums[-1] - sums[-2]).abs() + (left - sums[-1]).exp() + rounding)
    return Account(torch.stack(values), torch.stack(errors))


def lattice(reach: int, step: float) -> Tensor:
    """Codes so many steps from 0 at most, (N, 2)."""
    axis = torch.arange(-reach, reach + 1).double() * step
    return torch.cartesian_prod(axis, axis)


def spread(chosen: Tensor) -> Tensor:
    """The chosen cells of a lattice, and those around each, (N,)."""
    side = math.isqrt(len(chosen))
    square = chosen.float().reshape(1, 1, side, side)
    return torch.nn.functional.max_pool2d(square, 3, 1, 1).flatten() > 0


def log_joint(model: Checkpoint, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) + log N(z; 0, I) of every image at every code, (N, B)."""
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
    log_prior = (-z.square() / 2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    return torch.cat(parts).double() + log_prior[:, None]


def log_joint_of_one(model: Checkpoint, image: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) + log N(z; 0, I) of one image at every code, (N,)."""
    parts = [
        model.model.decode(codes.float()).log_prob(image) for codes in z.split(AT_ONCE // 1_024)
    ]
    return torch.cat(parts).double() + (-z.square() / 2 - 0.5 * math.log(2 * math.pi)).sum(-1)


def gathered(model: Checkpoint, count: int) -> tuple[np.ndarray, list[str]]:
    """Levels of images of all kinds, (B, C, H, W), and what each is."""
    kinds = {kind: images_of(model, kind, count) for kind in KINDS}
    names = [f"{kind} {n}" for kind, some in kinds.items() for n in range(len(some))]
    return np.concatenate(list(kinds.values())), names


def strays(value: Tensor, error: Tensor, account: Account, names: list[str]) -> list[str]:
    """The images whose value lies farther from the account than both say that it may."""
    # Where the product gives no number it claims none.
    off = (value - account.value).abs()
    beyond = (off > error + account.error) & ~value.isnan()
    return [f"{names[n]}: {off[n]:.2e} > {error[n]:.2e}" for n in beyond.nonzero().flatten()]


def check_exact_numbers(model: Checkpoint, count: int) -> None:
    levels, names = gathered(model, count)
    seen = see(model.model, levels)
    stated, exact = estimate_elbo(seen), exact_evidence(model.model, seen.x, seen.mu)
    mu, sigma = seen.mu, seen.sigma
    with torch.inference_mode():
        x = model.observe(levels)
        likelihood = expected_log_likelihood(model, x, mu, sigma)
        evidence = log_evidence(model, x)
    kl = (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).sum(-1)
    elbo = likelihood._replace(value=likelihood.value - kl)
    assert strays(stated.value, stated.error, elbo, names) == []
    assert strays(exact.log_evidence, exact.error, evidence, names) == []
    # An error that grows until it covers everything would prove nothing, here or there.
    errors = {
        "the ELBO's": stated.error,
        "of log p(x)": exact.error,
        "the account's of the ELBO": likelihood.error,
        "the account's of log p(x)": evidence.error,
    }
    for whose, error in errors.items():
        assert error.median() < 2e-3 and (error < 0.1).double().mean() > 0.9, whose


@pytest.mark.parametrize(
    "name", ["digits-2d", pytest.param("digits-binary-2d", marks=pytest.mark.slow)]
)
def test_exact_numbers_lie_within_their_errors(checkpoint, name: str) -> None:
    check_exact_numbers(checkpoint(name), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exact_numbers_of_many_images_lie_within_their_errors(checkpoint, name: str) -> None:
    check_exact_numbers(checkpoint(name), 100)


def test_a_wrong_value_strays_from_the_account(checkpoint) -> None:
    """What twelve Gauss-Hermite nodes a dimension make of an inverted digit, wrong by 5 nats."""
    model = checkpoint("digits-2d")
    levels = 16 - model.reference.levels[3:4]
    x = model.observe(levels)
    seen = see(model.model, levels)
    stated = estimate_elbo(seen)
    e, weights = hermite_nodes(2)
    twelve = (node_log_likelihoods(model.model, x, seen.codes(e)) @ weights) - stated.terms.kl
    with torch.inference_mode():
        account = expected_log_likelihood(model, x, seen.mu, seen.sigma)
    elbo = account._replace(value=account.value - stated.terms.kl)
    assert (twelve - elbo.value).abs() > 4
    assert strays(twelve, stated.error, elbo, ["inverted"]) != []
    assert strays(stated.value, stated.error, elbo, ["inverted"]) == []


def test_the_best_gaussian_has_the_elbo_that_it_states(checkpoint) -> None:
    """ELBO(q*) by the account, and the gain and the gap that follow from it."""
    model = checkpoint("digits-binary-2d")
    levels, names = gathered(model, 1)
    x = model.observe(levels)
    seen = see(model.model, levels)
    best = best_gaussian(seen)
    split = gap_split(best)
    with torch.inference_mode():
        account = expected_log_likelihood(model, x, best.mu, best.sigma)
        evidence = log_evidence(model, x)
    mu, sigma = best.mu, best.sigma
    kl = (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).sum(-1)
    elbo = account._replace(value=account.value - kl)
    assert strays(best.elbo, best.elbo_error, elbo, names) == []
    gap = Account(evidence.value - elbo.value, evidence.error + elbo.error)
    assert strays(split.approximation, split.error, gap, names) == []
    assert torch.equal(best.encoder_elbo, estimate_elbo(seen).value)
    assert (split.amortization >= -best.gain_error).all()


@pytest.mark.parametrize(
    "name", ["digits-2d", pytest.param("digits-binary-2d", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_receipt_of_a_foreign_image_leaves_nothing_over(
    checkpoint, name: str, kind: str
) -> None:
    model = checkpoint(name)
    for levels in images_of(model, kind, 2):
        seen = see(model.model, levels[None])
        receipt = take_apart(seen, estimate_elbo(seen))
        (row,) = score_levels(model, levels[None], evidence=False)
        assert (receipt.elbo, receipt.elbo_error) == (row.elbo, row.elbo_error)
        assert receipt.elbo_se == row.elbo_se == 0
        assert abs(receipt.residual) < 1e-6 * abs(receipt.elbo)


# --- Known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
def test_the_lattices_hold_each_other(dims: int) -> None:
    before: set[tuple[float, ...]] = set()
    for level in range(6):
        nodes, weights = lattice_nodes(dims, level)
        found = {tuple(node) for node in nodes.tolist()}
        assert len(found) == len(nodes) and before < found
        assert float(weights.sum()) == pytest.approx(1, abs=1e-12) and (weights > 0).all()
        assert torch.allclose(weights @ nodes, torch.zeros(dims).double(), atol=1e-12)
        if level >= 2:
            assert float(weights @ nodes[:, 0].square()) == pytest.approx(1, abs=1e-6)
        before = found


@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.03])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_expectation_of_a_linear_decoder(linear_gaussian, dims: int, sigma: float) -> None:
    r"""Its log-likelihood is quadratic, so the mean over any q is known in closed form."""
    model = linear_gaussian(dims, sigma)
    x = model.observe(few_digits().read(np.arange(6)))[..., :4, :4]
    for width in (0.01, 0.5, 4.0):
        mu = model.posterior_mean(x) + width
        found = expect(model, x, lambda rows, e, mu=mu, width=width: mu[rows, None] + width * e)
        at_mu = model.decode(mu.float()).log_prob(x).double()
        # E |W e|^2 of standard normal e is the squared Frobenius norm of W.
        lost = width**2 * model.weight.double().square().sum() / (2 * model.sigma**2)
        assert ((found.value - (at_mu - lost)).abs() <= found.error + 1e-6 * lost).all()


def test_images_on_which_the_first_lattices_agree_are_not_refined(checkpoint) -> None:
    model = checkpoint("digits-2d")
    elbo = estimate_elbo(see(model.model, model.reference.levels[:200]))
    assert (elbo.level == FIRST_LEVEL).double().mean() > 0.8


def test_an_image_is_refined_by_itself(checkpoint) -> None:
    """Whoever its batch-mates are, an image gets the lattice and the number that it gets alone."""
    model = checkpoint("digits-binary-2d")
    levels, _ = gathered(model, 3)
    together = estimate_elbo(see(model.model, levels))
    assert len(together.level.unique()) > 2
    for n in range(0, len(levels), 4):
        alone = estimate_elbo(see(model.model, levels[n : n + 1]))
        assert alone.level[0] == together.level[n]
        assert alone.value[0] == together.value[n]
        assert alone.error[0] == together.error[n]


def test_what_does_not_converge_says_so(linear_gaussian, monkeypatch) -> None:
    """A q so wide, and a decoder that waves so fast, that the work allowed cannot resolve it."""
    monkeypatch.setattr("vae.elbo.lattice._PIXELS", 2**15)
    model = linear_gaussian(2, 0.3)
    straight = model.decode
    model.decode = lambda z: straight(torch.sin(3 * z.double()))
    x = model.observe(few_digits().read(np.arange(20)))[..., :4, :4]
    found = expect(model, x, lambda rows, e: 41.7 * e.expand(len(rows), *e.shape))
    # Under so wide a q a sine has mean 0 and mean square 1/2, and two of them are uncorrelated.
    at_mean = straight(torch.zeros(1, 2)).log_prob(x)
    truth = at_mean - model.weight.square().sum() / (4 * model.sigma**2)
    assert (found.error > 1e-3).all()
    assert ((found.value - truth).abs() <= found.error).double().mean() > 0.9
