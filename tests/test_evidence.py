"""Bounds and exact evidence, against a model whose log p(x) is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import within

from vae.elbo.evidence.bounds import estimate_bound, importance_bound, nested_bounds
from vae.elbo.evidence.crosscheck import _hats, sampled_evidence
from vae.elbo.evidence.quadrature import exact_evidence, quadrature
from vae.elbo.expectation import estimate_elbo
from vae.elbo.lessons.derivation import hermite_nodes
from vae.elbo.seen import see
from vae.elbo.terms import log_density
from vae.elbo.tiles import node_log_likelihoods
from vae.model.noise import image_normals


def levels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


def log_weights(model, levels: np.ndarray, draws: int, widen: float = 1.0) -> torch.Tensor:
    """Log-weights of draws from the encoder, or from one that is too wide or too narrow."""
    x = model.observe(levels)
    q = model.encode(x)
    mu, sigma = q.mean.double()[:, None], widen * q.stddev.double()[:, None]
    e = image_normals(levels, 1, "importance", (draws, model.config.latent_dim))
    z = mu + sigma * torch.from_numpy(e)
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    return node_log_likelihoods(model, x, z) + log_prior - log_density(mu, sigma, z)


def log_joint(model, image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    return node_log_likelihoods(model, image[None], z[None])[0] + log_prior


# --- Known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.03])
@pytest.mark.parametrize("dims", [1, 2])
def test_quadrature_finds_the_evidence(
    linear_gaussian, dims: int, sigma: float, orthogonal: bool
) -> None:
    model = linear_gaussian(dims, sigma, orthogonal)
    x = model.observe(levels_of(4))
    evidence = exact_evidence(model, x, model.posterior_mean(x))
    expected = model.log_evidence(x)
    wrong = (evidence.log_evidence - expected).abs()
    assert wrong.max() < 1e-3
    # Pixels in float32 leave some 1e-7 of the value; beyond that the stated error covers it.
    assert (wrong <= evidence.error + 1e-6 * expected.abs()).all()


@pytest.mark.parametrize("dims", [1, 2])
def test_a_misleading_encoder_does_not_hide_the_mass(linear_gaussian, dims: int) -> None:
    model = linear_gaussian(dims)
    x = model.observe(levels_of(3))
    evidence = exact_evidence(model, x, torch.full((3, dims), 5.0))
    assert (evidence.log_evidence - model.log_evidence(x)).abs().max() < 1e-3


@pytest.mark.parametrize("shift", [6.0, 9.0, 25.0, 100.0])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_foreign_image_has_its_mass_far_out(linear_gaussian, dims: int, shift: float) -> None:
    model = linear_gaussian(dims)
    x = model.decode(torch.full((2, dims), shift)).mean
    for mu in (model.posterior_mean(x), torch.zeros(2, dims)):
        evidence = exact_evidence(model, x, mu)
        wrong = (evidence.log_evidence - model.log_evidence(x)).abs()
        assert (wrong <= evidence.error + 1e-3).all()
        assert (evidence.error < 1e-3 + 3e-7 * evidence.log_evidence.abs()).all()


def test_mass_far_out_is_found_though_there_is_a_peak_nearby(linear_gaussian) -> None:
    """A decoder that is flat about the origin, and draws the image only beyond z = 16."""
    model = linear_gaussian(1)
    straight = model.decode
    model.decode = lambda z: straight(10 + 10 * torch.tanh(4 * (z.double() - 15)))
    x = straight(torch.full((1, 1), 20.0)).mean
    z = torch.arange(-60, 60, 0.001).double()[:, None]
    joint = model.decode(z).log_prob(x) - z[:, 0].square() / 2 - 0.5 * math.log(2 * math.pi)
    truth = torch.logsumexp(joint, 0) + math.log(0.001)
    near = joint[z[:, 0].abs() < 14].logsumexp(0) + math.log(0.001)
    assert truth - near > 100
    evidence = exact_evidence(model, x, torch.zeros(1, 1))
    assert abs(evidence.log_evidence - truth) <= evidence.error + 1e-6


def test_a_narrow_ridge_along_the_edge_of_a_cell_is_integrated(linear_gaussian) -> None:
    """Cells are cut on the way only where their nodes are close enough to tell."""
    model = linear_gaussian(2, 0.01, False)
    for edge in (0.1, 0.3, 0.5):
        x = model.decode(torch.tensor([[edge - 0.004, edge + 0.002]]).double()).mean
        evidence = exact_evidence(model, x, model.posterior_mean(x))
        assert abs(evidence.log_evidence - model.log_evidence(x)) <= evidence.error + 1e-5


def test_out_of_reach_is_not_a_number(linear_gaussian) -> None:
    model = linear_gaussian(2)
    x = model.decode(torch.full((1, 2), 5_000.0)).mean
    assert exact_evidence(model, x, model.posterior_mean(x)).log_evidence.isnan().all()


@pytest.mark.parametrize("sigma", [0.05, 0.02, 0.01, 0.005, 0.002])
def test_a_step_that_is_too_coarse_says_so(linear_gaussian, sigma: float) -> None:
    model = linear_gaussian(1, sigma)
    x = model.observe(levels_of(20))
    evidence = exact_evidence(model, x, model.posterior_mean(x), finest=8)
    wrong = (evidence.log_evidence - model.log_evidence(x)).abs()
    assert (wrong[evidence.error < 1e-2] < 1e-3).all()
    assert (evidence.error[wrong > 1e-2] > 1e-2).all()
    if sigma <= 0.002:
        assert (wrong > 1e-2).any()


@pytest.mark.parametrize("dims", [1, 2])
def test_the_bound_is_tight_where_q_is_the_posterior(linear_gaussian, dims: int) -> None:
    model, levels = linear_gaussian(dims), levels_of(5)
    expected = model.log_evidence(model.observe(levels))
    seen = see(model, levels)
    elbo, bound = estimate_elbo(seen), estimate_bound(seen, 10)
    exact = exact_evidence(model, seen.x, seen.mu)
    for value in (elbo.value, bound.value, exact.log_evidence):
        assert (value - expected).abs().max() < 1e-4
    assert (elbo.standard_error == 0).all()


def test_the_bound_is_tight_in_more_dimensions(linear_gaussian) -> None:
    model, levels = linear_gaussian(5), levels_of(5)
    expected = model.log_evidence(model.observe(levels))
    seen = see(model, levels)
    elbo, bound = estimate_elbo(seen, 256), estimate_bound(seen, 7)
    # The weights are constant, so every L_k is exact; the ELBO averages over draws.
    assert (bound.value - expected).abs().max() < 1e-4
    assert within(elbo.value, expected, elbo.standard_error)


def test_the_gap_is_the_divergence_to_the_posterior(linear_gaussian) -> None:
    # log p(x) = ELBO(x) + KL(q || p(z|x)), with a q that cannot be the correlated posterior.
    model, levels = linear_gaussian(2, orthogonal=False), levels_of(4)
    seen = see(model, levels)
    x = seen.x
    true = torch.distributions.MultivariateNormal(model.posterior_mean(x), model.covariance)
    q = torch.distributions.MultivariateNormal(seen.mu, torch.diag_embed(seen.sigma.square()))
    gap = torch.distributions.kl_divergence(q, true)
    assert gap.min() > 1e-3
    assert torch.allclose(estimate_elbo(seen).value + gap, model.log_evidence(x), atol=1e-4)


# --- Bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("widen", [0.7, 1.5])
def test_importance_weights_are_unbiased(linear_gaussian, widen: float) -> None:
    model, levels = linear_gaussian(2, orthogonal=False), levels_of(8)
    expected = model.log_evidence(model.observe(levels))
    bound = importance_bound(log_weights(model, levels, 20_000, widen))
    assert within(bound.value, expected, bound.standard_error)
    assert (bound.standard_error > 0).all()
    assert ((bound.effective_samples >= 1) & (bound.effective_samples <= 20_000)).all()


def test_the_standard_error_is_the_spread_over_repetitions() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = 0.5 * torch.randn(400, 1_000, generator=generator, dtype=torch.float64)
    bound = importance_bound(weights)
    assert float(bound.value.std() / bound.standard_error.mean()) == pytest.approx(1, abs=0.15)
    # Log-normal weights: E w^2 / (E w)^2 = exp(0.25).
    assert float(bound.effective_samples.mean()) == pytest.approx(1_000 / math.exp(0.25), rel=0.02)


def test_importance_bound_by_hand() -> None:
    bound = importance_bound(torch.tensor([[0.0, math.log(3.0)], [-900.0, -900.0]]).double())
    assert bound.value.tolist() == pytest.approx([math.log(2.0), -900.0])
    assert bound.effective_samples.tolist() == pytest.approx([16 / 10, 2])
    assert bound.standard_error.tolist() == pytest.approx([0.5, 0])
    single = importance_bound(torch.tensor([[-7.0]]).double())
    assert float(single.value) == -7 and single.standard_error.isnan()


def test_the_ladder_rises_on_every_image() -> None:
    weights = 5 * torch.randn(300, 5_000, generator=torch.Generator().manual_seed(0)).double()
    ladder = nested_bounds(weights, (1, 5, 50, 5_000))
    assert (ladder.diff(dim=-1) > 0).all()
    assert torch.equal(ladder[:, 0], weights.mean(-1))
    assert torch.allclose(ladder[:, -1], importance_bound(weights).value, rtol=1e-12)


def test_one_rung_by_hand() -> None:
    weights = torch.tensor([[0.0, math.log(3.0), 1.0, 1.0]]).double()
    expected = [[(1 * 0 + math.log(3.0) + 2) / 4, (math.log(2.0) + 1) / 2]]
    assert nested_bounds(weights, (1, 2)).tolist() == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("groups", [(2, 5), (1, 4), (3,), (10, 5)])
def test_a_rung_that_does_not_divide_is_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="each rung must divide the next"):
        nested_bounds(torch.zeros(1, 10), groups)


def test_more_than_two_dimensions_have_no_quadrature(linear_gaussian) -> None:
    model = linear_gaussian(3)
    x = model.observe(levels_of(1))
    with pytest.raises(ValueError, match="at most 2 latent dimensions, not 3"):
        exact_evidence(model, x, torch.zeros(1, 3))


@pytest.mark.parametrize("dims", [1, 2])
def test_hermite_nodes_integrate_polynomials(dims: int) -> None:
    nodes, weights = hermite_nodes(dims)
    assert nodes.shape == (12**dims, dims)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    for power in range(24):
        # E e^k = (k - 1)!! for even k, and 12 nodes are exact up to degree 23.
        moment = math.prod(range(power - 1, 0, -2)) if power % 2 == 0 else 0
        for d in range(dims):
            found = float(weights @ nodes[:, d] ** power)
            assert found == pytest.approx(moment, rel=1e-9, abs=1e-9 * max(1, 2**power))
    if dims == 2:
        assert float(weights @ (nodes[:, 0] ** 2 * nodes[:, 1] ** 4)) == pytest.approx(3)


# --- The second account of log p(x) ------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
def test_the_sampled_evidence_of_a_linear_model(linear_gaussian, dims: int) -> None:
    model = linear_gaussian(dims, orthogonal=False)
    x = model.observe(levels_of(5))
    for image, expected in zip(x, model.log_evidence(x), strict=True):
        found = quadrature(model, image, torch.zeros(dims))
        sampled = sampled_evidence(model, image, found)
        assert sampled.standard_error < 2e-3
        assert abs(sampled.log_evidence - float(expected)) <= 5 * sampled.standard_error + 1e-5
        # No sum of the quadrature enters.
        shifted = found._replace(log_evidence=found.log_evidence + 7)
        assert sampled_evidence(model, image, shifted) == sampled


def test_the_proposal_is_a_density(checkpoint) -> None:
    model = checkpoint("digits-2d")
    x = model.observe(model.reference.levels[:1])
    found = quadrature(model.model, x[0], torch.from_numpy(model.reference.mu[0]))
    low, high = found.nodes.amin(0) - 2 * found.step, found.nodes.amax(0) + 2 * found.step
    # Four points a node along each axis: the mean of a piecewise linear density is exact.
    axes = [
        torch.arange(float(a), float(b), found.step / 4, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    ]
    density = _hats(found, torch.cartesian_prod(*axes))
    assert float(density.sum() * (found.step / 4) ** 2) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(_hats(found, found.nodes), found.masses / found.step**2, rtol=1e-6)


def test_the_standard_error_of_the_sampled_evidence_is_its_spread(checkpoint) -> None:
    model = checkpoint("digits-binary-2d")
    x = model.observe(model.reference.levels[40:41])
    found = quadrature(model.model, x[0], torch.from_numpy(model.reference.mu[40]))
    runs = [sampled_evidence(model.model, x[0], found, seed) for seed in range(40)]
    spread = float(np.std([run.log_evidence for run in runs], ddof=1))
    stated = float(np.mean([run.standard_error for run in runs]))
    # Even draws do better than independent ones, which is what the error is for.
    assert 0.3 < spread / stated < 1.3


def test_what_a_quadrature_misses_is_found(checkpoint) -> None:
    model = checkpoint("digits-2d")
    x = model.observe(model.reference.levels[:1])
    found = quadrature(model.model, x[0], torch.from_numpy(model.reference.mu[0]))
    axis = found.nodes[:, 1]
    half = axis > (found.masses * axis).sum()
    missed = found._replace(
        nodes=found.nodes[half],
        log_joint=found.log_joint[half],
        log_evidence=torch.logsumexp(found.log_joint[half], 0) + 2 * math.log(found.step),
    )
    short = float(found.log_evidence - missed.log_evidence)
    assert short > 0.4
    sampled = sampled_evidence(model.model, x[0], missed)
    assert sampled.log_evidence - float(missed.log_evidence) > 0.6 * short
    assert abs(sampled.log_evidence - float(found.log_evidence)) <= 5 * sampled.standard_error


# --- A trained model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forty(checkpoint):
    """Forty reference images of the 2-D digits: rows, what is seen, log p(x), and the model."""
    model = checkpoint("digits-2d")
    rows = np.random.default_rng(0).choice(model.reference.size, 40, replace=False)
    seen = see(model.model, model.reference.levels[rows])
    return rows, seen, exact_evidence(seen.model, seen.x, seen.mu), model


def test_no_bound_exceeds_the_evidence(forty) -> None:
    _, seen, exact, _ = forty
    bound = estimate_bound(seen, 1_000)
    assert (estimate_elbo(seen).value <= exact.log_evidence + 1e-3).all()
    assert (bound.value <= exact.log_evidence + 4 * bound.standard_error).all()
    assert (exact.error < 1e-3).all()


def test_the_stored_evidence_is_found_again(forty) -> None:
    rows, _, exact, model = forty
    stored = torch.from_numpy(model.reference.log_evidence[rows])
    assert torch.allclose(exact.log_evidence, stored, rtol=1e-6, atol=1e-4)
    assert (model.reference.elbo <= model.reference.log_evidence + 1e-3).all()


def test_a_second_method_agrees(forty) -> None:
    # An importance sampler whose proposals follow the true posterior on a coarse lattice of
    # squares, mixed with wide ones: it misses no mass wherever the encoder points.
    rows, _, exact, model = forty
    x = model.observe(model.reference.levels[rows[:10]])
    axis = torch.arange(-25, 26, dtype=torch.float64) * 0.2
    cells = torch.cartesian_prod(axis, axis)
    generator = torch.Generator().manual_seed(0)
    for image, expected in zip(x, exact.log_evidence[:10], strict=True):
        joint = log_joint(model, image, cells)
        shares = 0.9 * torch.softmax(joint / 1.5, 0) + 0.1 * torch.softmax(joint / 20, 0)
        chosen = torch.multinomial(shares, 4_000, replacement=True, generator=generator)
        jitter = torch.rand(4_000, 2, generator=generator, dtype=torch.float64) - 0.5
        joint_there = log_joint(model, image, cells[chosen] + 0.2 * jitter)
        bound = importance_bound((joint_there - torch.log(shares[chosen] / 0.04))[None])
        assert within(bound.value, expected, bound.standard_error)
        assert bound.effective_samples > 400
