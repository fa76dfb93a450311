"""Planes through the latent space: what is decoded, where; round trips; projections; groups."""

import numpy as np
import pytest
import torch

from vae.elbo.tiles import decode_means
from vae.explore.lattice import (
    Plane,
    Window,
    decode_lattice,
    dimension_plane,
    lattice_side,
    places,
)
from vae.explore.projection import principal_axes, tsne
from vae.explore.round_trip import round_trip
from vae.explore.selection import inside, nearest

SQUARE = Window(-2.0, -2.0, 2.0, 2.0)


def test_a_cell_is_what_the_decoder_draws_at_its_centre(checkpoint):
    model = checkpoint("digits-2d").model
    plane = dimension_plane((0, 1), np.zeros(2))
    frames = decode_lattice(model, plane, Window(-3, -1, 1, 3), 5)
    # Row 0 is the top, column 0 the left: its centre is at z1 = -2.6, z2 = 2.6.
    for row, column, code in ((0, 0, (-2.6, 2.6)), (4, 2, (-1.0, -0.6)), (1, 3, (-0.2, 1.8))):
        expected = decode_means(model, torch.tensor([code])).numpy()[0]
        assert np.array_equal(frames[row, column], np.rint(expected * 255).astype(np.uint8))


def test_a_slice_holds_the_other_dimensions(checkpoint):
    model = checkpoint("digits-10d").model
    hold = np.linspace(-1, 1, 10)
    plane = dimension_plane((7, 2), hold)
    codes = plane.codes(places(SQUARE, 3))
    others = [d for d in range(10) if d not in (7, 2)]
    assert np.array_equal(codes[..., others], np.broadcast_to(hold[others], (3, 3, 8)))
    assert np.allclose(codes[0, 2, [7, 2]], [4 / 3, 4 / 3])
    assert np.allclose(plane.project(codes), places(SQUARE, 3))
    frames = decode_lattice(model, plane, SQUARE, 3)
    expected = decode_means(model, torch.from_numpy(codes[1, 1][None])).numpy()[0]
    assert np.array_equal(frames[1, 1], np.rint(expected * 255).astype(np.uint8))


@pytest.mark.parametrize("dims", [(0, 0), (0, 2), (-1, 0)])
def test_a_plane_needs_two_dimensions_that_there_are(dims):
    with pytest.raises(ValueError, match="two of 2 latent dimensions"):
        dimension_plane(dims, np.zeros(2))


@pytest.mark.parametrize(
    "window",
    [(0, 0, 0, 1), (1, 0, 0, 1), (0, 0, float("nan"), 1), (0, 0, float("inf"), 1), (0, 0, 1e9, 1)],
)
def test_a_window_that_cannot_be_decoded_is_refused(checkpoint, window):
    plane = dimension_plane((0, 1), np.zeros(2))
    with pytest.raises(ValueError, match="no window"):
        decode_lattice(checkpoint("digits-2d").model, plane, Window(*window), 3)


@pytest.mark.parametrize("name", ["digits-2d", "sprites-10d"])
def test_a_lattice_has_a_middle_and_a_bounded_weight(checkpoint, name):
    config = checkpoint(name).config
    side = lattice_side(config.image)
    assert side % 2 == 1
    assert side**2 * config.image.pixels <= 2_400_000


def test_the_round_trip_of_a_linear_model_shrinks_by_its_posterior(linear_gaussian):
    """Of x = W z + b without noise the posterior mean is z w^2 / (w^2 + s^2), dimension by
    dimension where the columns of W are orthogonal."""
    model = linear_gaussian(2, sigma=0.3)
    model.bias = torch.full_like(model.bias, 0.5)
    codes = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 2))
    width = model.weight.square().sum(0).numpy()
    expected = codes * width / (width + 0.3**2)
    # What is left is the snapping to 256 levels.
    assert np.abs(round_trip(model, codes) - expected).max() < 0.02
    assert np.abs(codes - expected).max() > 0.1


def test_principal_axes_of_a_known_cloud():
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.standard_normal((4, 4)))[0]
    cloud = generator.standard_normal((5_000, 4)) * (3, 2, 0.5, 0.1) @ turn.T + 7
    axes = principal_axes(cloud)
    assert np.abs(axes.directions @ turn[:, :2]).diagonal() == pytest.approx([1, 1], abs=1e-3)
    assert axes.shares == pytest.approx(np.array([9, 4]) / 13.26, abs=0.02)
    # The plane through a code holds that code, and keeps its places.
    plane = axes.plane_through(cloud[3])
    place = (cloud[3] - axes.mean) @ axes.directions.T
    assert plane.codes(place) == pytest.approx(cloud[3])
    assert plane.project(cloud[[3]])[0] == pytest.approx(place)


def test_tsne_keeps_groups_together_and_reports_its_steps():
    generator = np.random.default_rng(0)
    middles = 12 * generator.standard_normal((3, 5))
    labels = np.arange(90) % 3
    codes = middles[labels] + generator.standard_normal((90, 5))
    steps = []
    found = tsne(codes, report=lambda done, all_steps: steps.append((done, all_steps)))
    assert steps == [(0, 1000), (250, 1000), (500, 1000), (750, 1000), (1000, 1000)]
    distance = np.linalg.norm(found[:, None] - found, axis=-1) + np.diag(np.full(90, np.inf))
    assert (labels[distance.argmin(1)] == labels).all()
    assert found.mean(0) == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(ValueError, match="t-SNE takes"):
        tsne(np.zeros((3, 5)))


def test_a_loop_holds_what_lies_inside():
    corners = [(0, 0), (4, 0), (4, 4), (2, 1), (0, 4)]  # a notch from above
    points = np.array([(1, 1), (2, 3), (3.5, 2), (5, 1), (-1, 1), (2, 0.5), (np.nan, 1)])
    assert inside(points, corners).tolist() == [True, False, True, False, False, True, False]
    grid = np.random.default_rng(0).uniform(-2, 2, (2_000, 2))
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.column_stack((np.cos(turn), np.sin(turn)))
    radius = np.linalg.norm(grid, axis=1)
    clear = np.abs(radius - 1) > 1e-3
    assert np.array_equal(inside(grid, circle)[clear], (radius < 1)[clear])


@pytest.mark.parametrize(
    "corners", [[(0, 0), (1, 1)], [(0, 0), (1, float("nan")), (1, 1)], [0, 1, 2], [(0, 0)] * 3_000]
)
def test_a_loop_that_is_none_is_refused(corners):
    with pytest.raises(ValueError, match="loop"):
        inside(np.zeros((3, 2)), corners)


def test_neighbours_are_the_nearest_and_not_the_sample_itself():
    mu = np.array([[0.0, 0], [0, 0], [3, 0], [1, 0], [0, 2]])
    near, distance = nearest(mu, 0, 3)
    assert near.tolist() == [1, 3, 4]
    assert distance.tolist() == [0, 1, 2]
    assert nearest(mu, 2, 99)[0].tolist() == [3, 0, 1, 4]
    assert nearest(mu[:1], 0, 6)[0].size == 0


def test_a_plane_is_seen_from_above():
    plane = Plane(np.array([1.0, 2, 3]), np.array([0.0, 1, 0]), np.array([0.0, 0, 1]))
    assert plane.project(np.array([[9.0, 3, 5]])).tolist() == [[1, 2]]
