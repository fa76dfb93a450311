"""Objectives and schedules on cases whose value is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import few_digits
from torch.distributions import Independent, Normal

from vae.data.spec import ImageSpec
from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.terms import Terms, log_density
from vae.model.vae import VAE
from vae.training.config import Objective, TrainConfig
from vae.training.fit import fit
from vae.training.loss.batch_objectives import free_bits_penalty, moment_penalty, total_correlation
from vae.training.loss.objectives import (
    beta_loss,
    capacity_loss,
    elbo_loss,
    free_bits_loss,
    iwae_loss,
)
from vae.training.loss.schedules import kl_setting, learning_rate
from vae.training.loss.training_loss import TrainingLoss

QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=12, batch_size=32, evaluate_every=6, warmup_steps=2,
    device="cpu",
)  # fmt: skip


TERMS = Terms(torch.tensor([-10.0, -20.0]), torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
POSTERIOR = Independent(Normal(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.5), 1)


def alone(share: torch.Tensor) -> torch.Tensor:
    return share


# --- By hand ----------------------------------------------------------------------------------


def test_elbo_by_hand() -> None:
    assert elbo_loss(TERMS).tolist() == [13, 20.5]


def test_beta_by_hand() -> None:
    assert beta_loss(TERMS, 4.0).tolist() == [22, 22]
    assert torch.equal(beta_loss(TERMS, torch.tensor(1.0)), elbo_loss(TERMS))


def test_capacity_by_hand() -> None:
    # The KLs are 3 and 0.5: one image pays for too much, the other for too little.
    assert capacity_loss(TERMS, 2.0, 1.0).tolist() == [14, 21]


def test_free_bits_by_hand() -> None:
    # Per sample each of the four KLs is charged at least 0.75.
    assert free_bits_loss(TERMS, 0.75).tolist() == [13, 21.5]
    # As published only the means over the batch are: 0.75 and 1.
    assert float(free_bits_penalty(TERMS.kl_per_dim, 0.75, alone)) == 1.75
    assert float(free_bits_penalty(TERMS.kl_per_dim, 0.9, alone)) == pytest.approx(1.9)


def test_free_bits_leave_no_gradient_below_the_minimum() -> None:
    kl = TERMS.kl_per_dim.clone().requires_grad_()
    free_bits_loss(TERMS._replace(kl_per_dim=kl), 0.75).sum().backward()
    assert kl.grad.tolist() == [[1, 1], [0, 0]]


def test_iwae_by_hand() -> None:
    weights = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log()
    assert iwae_loss(weights).tolist() == pytest.approx([-math.log(2), -math.log(2)])


def test_batch_moment_kl_by_hand() -> None:
    # Variances of the batch: 1 + 0.25 and 0 + 0.25, means 0.
    expected = sum(0.5 * (v - 1 - math.log(v)) for v in (1.25, 0.25))
    assert float(moment_penalty(POSTERIOR, alone)) == pytest.approx(expected)


def test_the_mistaken_penalty_misses_what_every_image_pays() -> None:
    sigma, count = 0.1, 20_000
    mu = torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).double()
    mu = math.sqrt(1 - sigma**2) * (mu - mu.mean()) / mu.std(correction=0)
    q = Independent(Normal(mu, sigma), 1)
    kl = 0.5 * (mu.square() + sigma**2 - 1) - math.log(sigma)
    assert float(moment_penalty(q, alone)) < 1e-9
    true = elbo_loss(Terms(torch.zeros(count).double(), kl))
    assert float(true.mean()) == pytest.approx(-math.log(sigma), abs=1e-9)


# --- The total correlation --------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_two_clusters_that_move_together_share_one_bit_a_further_dimension(dims: int) -> None:
    mu = torch.tensor([[-9.0] * dims, [9.0] * dims]).double()
    sigma = torch.full_like(mu, 0.1)
    found = total_correlation(mu + 0.05, mu, sigma, 0, 2, "stratified")
    assert found.tolist() == pytest.approx([(dims - 1) * math.log(2)] * 2)


def test_equal_posteriors_have_no_total_correlation() -> None:
    mu, sigma = torch.full((5, 3), 0.3).double(), torch.full((5, 3), 0.7).double()
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    found = total_correlation(z, mu, sigma, 0, 1_000, "stratified")
    assert found.numpy() == pytest.approx(np.zeros(5), abs=1e-12)
    # The published estimator counts one component in N x B: (D - 1) log N is its known offset.
    weighted = total_correlation(z, mu, sigma, 0, 1_000, "weighted")
    assert weighted.numpy() == pytest.approx(np.full(5, 2 * math.log(1_000)))


def posteriors(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    mu, noise = (torch.randn(count, 2, generator=generator).double() for _ in range(2))
    sigma = 0.2 + torch.rand(count, 2, generator=generator).double()
    return mu + sigma * noise, mu, sigma


def test_with_the_whole_data_set_as_a_batch_the_estimate_is_exact() -> None:
    z, mu, sigma = posteriors(40)
    exact = aggregate_log_density(mu, sigma, z)
    for d in range(2):
        exact = exact - aggregate_log_density(mu[:, [d]], sigma[:, [d]], z[:, [d]])
    found = total_correlation(z, mu, sigma, 0, 40, "stratified")
    assert found.numpy() == pytest.approx(exact.numpy(), abs=1e-10)


def test_the_stratified_density_is_right_on_average_over_batches() -> None:
    # One dimension's density: the mean over all batches that hold the image is exact.
    z, mu, sigma = posteriors(7)
    exact = aggregate_log_density(mu, sigma, z[:1]).exp()
    found = []
    for mates in itertools.combinations(range(1, 7), 3):
        batch = [0, *mates]
        own, rest = -math.log(7), math.log(6 / (7 * 3))
        logs = log_density(mu[batch], sigma[batch], z[:1])
        weights = torch.tensor([own, rest, rest, rest], dtype=torch.float64)
        found.append(torch.logsumexp(logs + weights, 0).exp())
        joint = total_correlation(z[:1], mu[batch], sigma[batch], 0, 7, "stratified")
        marginals = [
            torch.logsumexp(
                log_density(mu[batch][:, [d]], sigma[batch][:, [d]], z[:1, [d]]) + weights, 0
            )
            for d in range(2)
        ]
        expected = torch.logsumexp(logs + weights, 0) - sum(marginals)
        assert float(joint) == pytest.approx(float(expected))
    assert float(torch.stack(found).mean()) == pytest.approx(float(exact))


def test_a_share_of_a_batch_is_charged_as_in_the_whole() -> None:
    z, mu, sigma = posteriors(6)
    for estimator in ("weighted", "stratified"):
        whole = total_correlation(z, mu, sigma, 0, 99, estimator)
        share = total_correlation(z[3:], mu, sigma, 3, 99, estimator)
        assert torch.equal(whole[3:], share)


# --- As one module ----------------------------------------------------------------------------


def test_importance_weights_of_the_true_posterior_are_the_evidence(linear_gaussian) -> None:
    model = linear_gaussian(3)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    config = replace(QUICK, objective="iwae", iwae_samples=6, likelihood="gaussian")
    noise = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1)).double()
    outcome = TrainingLoss(model, config, images=100)(x, noise)
    assert outcome.loss.numpy() == pytest.approx(-model.log_evidence(x).numpy(), abs=1e-8)
    # The bar shows the ELBO whatever is trained; here the bound is tight.
    elbo = outcome.expected_log_likelihood - outcome.kl_per_dim.sum(-1)
    assert elbo.numpy() == pytest.approx(model.log_evidence(x).numpy(), abs=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "beta", "beta": 1.0},
        {"objective": "free_bits", "free_nats": 0.0},
        {"objective": "beta_tc", "beta": 1.0},
        {"objective": "beta_tc", "beta": 1.0, "tc_estimator": "stratified"},
        {"objective": "capacity", "capacity": 0.0, "capacity_weight": 1.0},
    ],
)
def test_at_its_neutral_setting_an_objective_is_the_elbo(changes: dict) -> None:
    x, noise = torch.rand(8, 1, 8, 8), torch.randn(8, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(QUICK.model(ImageSpec(1, 8, 8)))
    plain = TrainingLoss(model, QUICK, images=100)(x, noise).loss
    config = replace(QUICK, **changes)
    setting = torch.tensor(0.0) if config.objective == "capacity" else None
    found = TrainingLoss(model, config, images=100)(x, noise, setting=setting).loss
    assert torch.allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("objective", get_args(Objective))
def test_every_objective_trains(objective: str) -> None:
    config = replace(QUICK, objective=objective, steps=40, evaluate_every=40, ema=0.9)
    start = fit(replace(config, steps=1), few_digits(), progress=False)
    fitted = fit(config, few_digits(), progress=False)
    before, after = (run.history[-1]["validation"]["elbo"] for run in (start, fitted))
    assert after > before + 5


# --- Schedules --------------------------------------------------------------------------------


def test_beta_warms_up() -> None:
    config = replace(QUICK, objective="beta", beta=4.0, beta_schedule="warm_up", beta_steps=100)
    assert [kl_setting(step, config) for step in (0, 50, 100, 5_000)] == [0, 2, 4, 4]


def test_beta_goes_in_cycles() -> None:
    config = replace(QUICK, objective="beta", beta=4.0, beta_schedule="cyclical", beta_steps=100)
    steps = (0, 25, 50, 99, 100, 125)
    assert [kl_setting(step, config) for step in steps] == [0, 2, 4, 4, 0, 2]


def test_the_capacity_rises_and_stays() -> None:
    config = replace(QUICK, objective="capacity", capacity=20.0, capacity_steps=10)
    assert [kl_setting(step, config) for step in (0, 5, 10, 99)] == [0, 10, 20, 20]
    assert kl_setting(0, replace(config, capacity_steps=0)) == 20


@pytest.mark.parametrize("objective", ["elbo", "free_bits", "batch_moment_kl", "beta"])
def test_other_objectives_have_no_schedule(objective: str) -> None:
    assert kl_setting(3, replace(QUICK, objective=objective)) is None


def test_a_schedule_reaches_the_loss() -> None:
    x, noise = torch.rand(4, 1, 8, 8), torch.randn(4, 3)
    model = VAE(QUICK.model(ImageSpec(1, 8, 8)))
    config = replace(QUICK, objective="beta", beta=4.0, beta_schedule="warm_up")
    outcome = TrainingLoss(model, config, images=100)(x, noise, setting=torch.tensor(0.0))
    assert torch.equal(outcome.loss, -outcome.expected_log_likelihood)


@pytest.mark.parametrize("schedule", ["cosine", "constant_then_linear"])
def test_the_learning_rate_warms_up_and_falls_to_zero(schedule: str) -> None:
    config = replace(QUICK, steps=100, warmup_steps=10, schedule=schedule, learning_rate=2.0)
    rates = [learning_rate(step, step / 100, config) / 2 for step in range(101)]
    assert rates[0] == pytest.approx(0.1, abs=1e-3)
    assert rates[:10] == sorted(rates[:10]) and rates[9] > 0.97
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)
    assert learning_rate(0, 0, replace(config, warmup_steps=0)) == 2
    middle = {"cosine": 0.5, "constant_then_linear": 1.0}
    assert rates[50] == pytest.approx(middle[schedule])


def test_a_constant_rate_stays_and_time_counts_as_steps_do() -> None:
    config = replace(QUICK, warmup_steps=10, schedule="constant")
    assert {learning_rate(step, step / 100, config) for step in range(10, 101)} == {2e-3}
    cosine = replace(config, schedule="cosine")
    # Half of the minutes are over after few of the steps.
    assert learning_rate(20, 0.5, cosine) == pytest.approx(1e-3)


# --- The shipped pair -------------------------------------------------------------------------


def test_the_shipped_pair_shows_the_mistake(checkpoint) -> None:
    names = ("digits-binary-2d", "digits-binary-2d-batch-moment")
    right, mistaken = (checkpoint(name) for name in names)
    assert right.card.objective == "elbo"
    assert mistaken.card.objective == "batch_moment_kl"
    # All else is equal: network, data, likelihood, floor.
    assert right.config == mistaken.config
    floor = right.config.sigma_floor
    sigma = {model.name: np.exp(0.5 * model.reference.log_variance) for model in (right, mistaken)}
    assert np.median(sigma[names[1]]) < 1.2 * floor
    assert np.median(sigma[names[0]]) > 3 * floor
    gap = {
        model.name: (model.reference.log_evidence - model.reference.elbo).mean()
        for model in (right, mistaken)
    }
    assert gap[names[1]] > 2 > gap[names[0]] > 0
    # The first two moments of its aggregate look like the prior's nonetheless.
    mu = mistaken.reference.mu
    total = mu.var(0) + (sigma[names[1]] ** 2).mean(0)
    assert np.abs(mu.mean(0)).max() < 0.2 and np.abs(total - 1).max() < 0.2
