"""What would make an image pass: the nearest accepted decoded image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.elbo.tiles import decode_means
from vae.scoring.counterfactual import nearest_accepted


def elbo_at(model, z) -> np.ndarray:
    image = decode_means(model, torch.as_tensor(z)).numpy()
    return estimate_elbo(see(model, model.config.image.to_levels(image))).value.numpy()


def test_a_code_that_passes_need_not_move(checkpoint) -> None:
    model = checkpoint("digits-2d")
    mu = np.array([0.3, -0.2])
    elbo = elbo_at(model, mu[None])[0]
    found = nearest_accepted(model, mu, elbo - 1, np.zeros((0, 2)))
    assert found.passes
    assert found.distance == 0
    assert found.elbo == pytest.approx(elbo)
    np.testing.assert_array_equal(found.z, mu)


def test_the_move_is_the_smallest_that_passes(checkpoint) -> None:
    model = checkpoint("digits-2d")
    mu = np.array([4.5, -4.5])
    start = elbo_at(model, mu[None])[0]
    threshold = start + 15
    found = nearest_accepted(model, mu, threshold, model.reference.mu[:4])
    assert found.passes
    assert found.distance > 0
    assert found.elbo > threshold
    assert found.distance == pytest.approx(np.linalg.norm(found.z - mu))
    assert elbo_at(model, found.z[None])[0] == pytest.approx(found.elbo, abs=1e-6)
    spec = model.config.image
    np.testing.assert_allclose(spec.from_levels(spec.to_levels(found.decoded)), found.decoded)
    # A step back on the line it fails; and on no other line does anything much nearer pass.
    assert elbo_at(model, (mu + (found.z - mu) * (1 - 0.02 / found.distance))[None])[0] < threshold
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1)
    for share in (0.3, 0.6, 0.8):
        assert (elbo_at(model, mu + share * found.distance * circle) <= threshold).all()


def test_where_nothing_passes_it_says_so(checkpoint) -> None:
    model = checkpoint("digits-10d")
    mu = model.reference.mu[0]
    found = nearest_accepted(model, mu, 1e6, model.reference.mu[1:3], draws=4)
    assert not found.passes
    assert found.distance == 0
    assert found.directions == 3
    np.testing.assert_array_equal(found.z, mu)
