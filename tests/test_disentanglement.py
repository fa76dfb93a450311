"""The mutual information gap on codes whose information about the factors is known."""

from __future__ import annotations

import math

import pytest
import torch

from vae.data.sets import sprites
from vae.elbo.aggregate.information_gap import mutual_information_gap
from vae.scoring.factors import factor_metrics

SIZES = (3, 4, 2)


def grid(repeats: int = 1) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(size) for size in SIZES], indexing="ij")
    return torch.stack(axes, -1).reshape(-1, len(SIZES)).repeat(repeats, 1)


def sharp(mu: torch.Tensor) -> torch.Tensor:
    return torch.full_like(mu, 0.01, dtype=torch.float64)


def test_a_code_that_copies_the_factors_has_the_whole_gap():
    factors = grid()
    mu = torch.cat((factors[:, [2, 0, 1]].double(), torch.zeros(len(factors), 2)), 1)
    gap = mutual_information_gap(mu, sharp(mu), factors)
    entropy = torch.tensor([math.log(size) for size in SIZES], dtype=torch.float64)
    torch.testing.assert_close(gap.entropy, entropy)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[[0, 1, 2], [1, 2, 0]] = entropy
    torch.testing.assert_close(gap.information, expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(gap.per_factor, torch.ones(3).double())
    assert float(gap.value) == pytest.approx(1)


def test_a_second_dimension_with_half_the_information_takes_half_the_gap():
    # Four values are two bits; their parity is one of them.
    factors = torch.arange(4).repeat(5)[:, None]
    mu = torch.cat((factors, factors % 2), 1).double()
    gap = mutual_information_gap(mu, sharp(mu), factors)
    torch.testing.assert_close(
        gap.information, torch.tensor([[math.log(4), math.log(2)]]).double(), atol=1e-7, rtol=0
    )
    assert float(gap.value) == pytest.approx(0.5)


def test_a_turned_code_loses_the_gap_though_it_holds_everything():
    factors = grid()[:, [0]]
    mu = torch.cat((factors, -factors), 1).double()
    gap = mutual_information_gap(mu, sharp(mu), factors)
    assert float(gap.information.min()) == pytest.approx(math.log(3))
    assert float(gap.value) == pytest.approx(0, abs=1e-9)


def test_a_random_code_has_almost_none():
    generator = torch.Generator().manual_seed(0)
    factors = grid(200)
    mu = torch.randn(len(factors), 4, generator=generator, dtype=torch.float64)
    gap = mutual_information_gap(mu, torch.full_like(mu, 0.5), factors)
    assert 0 <= float(gap.value) < 0.005 and float(gap.information.max()) < 0.01


def test_wide_posteriors_hide_the_factor():
    """Two components a distance apart: the information is that of a binary Gaussian channel."""
    factors = torch.tensor([0, 1]).repeat(3)[:, None]
    mu = (2 * factors - 1).double()
    gap = mutual_information_gap(mu, torch.ones_like(mu), factors)
    z = torch.linspace(-10, 10, 4_001, dtype=torch.float64)
    both = [torch.exp(-0.5 * (z - m).square()) / math.sqrt(2 * math.pi) for m in (-1, 1)]
    mixture = (both[0] + both[1]) / 2
    expected = torch.trapezoid(torch.special.entr(mixture), z) - 0.5 * math.log(
        2 * math.pi * math.e
    )
    assert float(gap.information[0, 0]) == pytest.approx(float(expected), abs=1e-6)
    # A lone dimension has no rival.
    assert float(gap.value) == pytest.approx(float(expected) / math.log(2), abs=1e-6)


def test_scaling_or_turning_round_a_dimension_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    factors = grid(5)
    mu = factors.double() + torch.randn(factors.shape, generator=generator, dtype=torch.float64)
    sigma = 0.2 + torch.rand(mu.shape, generator=generator, dtype=torch.float64)
    one = mutual_information_gap(mu, sigma, factors)
    other = mutual_information_gap(-7 * mu + 3, 7 * sigma, factors)
    torch.testing.assert_close(one.information, other.information, atol=1e-6, rtol=0)


def test_what_does_not_fit_is_refused():
    mu = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="mu and sigma must be"):
        mutual_information_gap(mu, mu + 1, torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="factor 0 has the same value"):
        mutual_information_gap(mu, mu + 1, torch.zeros(4, 1, dtype=torch.long))


def test_the_shipped_sprites_have_a_gap_for_each_factor(checkpoint):
    metrics = factor_metrics(checkpoint("sprites-10d").model, images=400)
    assert metrics["factor_images"] == 400
    assert list(metrics["factor_gaps"]) == [factor.name for factor in sprites.FACTORS]
    gaps = list(metrics["factor_gaps"].values())
    assert metrics["mutual_information_gap"] == pytest.approx(sum(gaps) / 5)
    assert all(0 <= gap <= 1 for gap in gaps)
