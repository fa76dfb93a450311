"""Holes of the prior: cases whose share is known in closed form."""

import math

import pytest
import torch

from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.aggregate.holes import holes
from vae.elbo.terms import log_density


@pytest.mark.parametrize("width", [0.3, 0.5, 0.8, 1.0])
def test_one_gaussian_for_all_images_has_a_known_share(width):
    """With q = N(0, s^2 I) on a plane the level set is a circle, and the share alpha^(s^2)."""
    mu, sigma = torch.zeros(500, 2), torch.full((500, 2), width)
    found = holes(mu, sigma, draws=20_000, level=0.01)
    assert abs(found.share - 0.01 ** (width**2)) < 4 * found.share_se
    assert 0 < found.share_se < 0.06


def test_where_the_aggregate_is_the_prior_holes_hold_the_level():
    """mu ~ N(0, 1 - s^2): the aggregate is N(0, I), so the prior meets holes as data do."""
    generator = torch.Generator().manual_seed(1)
    sigma = torch.full((2_000, 2), 0.6)
    mu = math.sqrt(1 - 0.36) * torch.randn(2_000, 2, generator=generator)
    found = holes(mu, sigma, level=0.05)
    assert abs(found.share - 0.05) < 4 * found.share_se + 0.01


def test_a_further_image_meets_holes_as_often_as_the_level_says():
    """Narrow Gaussians, few of them: a level that counted each image's own would be far off."""
    generator = torch.Generator().manual_seed(2)
    mu = torch.randn(1_200, 3, generator=generator).double()
    sigma = torch.full_like(mu, 0.1)
    found = holes(mu[:300], sigma[:300], level=0.1)
    fresh = mu[300:] + sigma[300:] * torch.randn(900, 3, generator=generator)
    below = aggregate_log_density(mu[:300], sigma[:300], fresh) < found.threshold
    assert abs(below.double().mean() - 0.1) < 0.06


def test_a_place_without_its_owner_is_judged_by_the_others():
    generator = torch.Generator().manual_seed(3)
    mu = torch.randn(5, 2, generator=generator).double()
    sigma = torch.rand(5, 2, generator=generator).double() + 0.1
    found = aggregate_log_density(mu, sigma, mu, torch.arange(5), leave_owner_out=True)
    for n in range(5):
        others = [m for m in range(5) if m != n]
        each = torch.stack([log_density(mu[m], sigma[m], mu[n]) for m in others])
        assert found[n] == pytest.approx(float(each.exp().mean().log()), abs=1e-9)


def test_the_same_seed_gives_the_same_share_and_bad_values_are_named():
    mu, sigma = torch.zeros(4, 2), torch.ones(4, 2)
    assert holes(mu, sigma, draws=100) == holes(mu, sigma, draws=100)
    with pytest.raises(ValueError, match="at least 2 images"):
        holes(mu[:1], sigma[:1])
    with pytest.raises(ValueError, match="level"):
        holes(mu, sigma, level=1.5)
