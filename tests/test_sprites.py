r"""Tests for the vae.data.sets.sprites module."""

import hashlib
import math

import numpy as np
import pytest

from vae.data.sets import sprites
from vae.data.sets.sprites import COUNT, FACTORS, GRID, SIZE, factors_of, render

SHAPES, SCALES, ROTATIONS, XS, YS = GRID
# Scale, rotation and position that the tests below leave alone.
LARGE, UPRIGHT, MIDDLE = SCALES - 1, 0, XS // 2


def some_indices(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, COUNT, size=count)


def centroids(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean column and the mean row of the set pixels, each of shape (N,)."""
    mass = images[:, 0].astype(np.float64)
    area = mass.sum(axis=(1, 2))
    lattice = np.arange(SIZE)
    return mass.sum(axis=1) @ lattice / area, mass.sum(axis=2) @ lattice / area


def cropped(image: np.ndarray) -> bytes:
    """Returns an image's content wherever it stands in the frame."""
    rows, columns = np.nonzero(image)
    crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return bytes(crop.shape) + crop.tobytes()


def test_grid() -> None:
    assert [factor.name for factor in FACTORS] == ["shape", "scale", "rotation", "x", "y"]
    assert GRID == (3, 6, 40, 32, 32)
    assert COUNT == math.prod(GRID) == 737_280
    for factor in FACTORS:
        assert len(factor.values) == len(set(factor.values)) == factor.size


@pytest.mark.parametrize("count", [0, 1, 7])
def test_shapes(count: int) -> None:
    factors = factors_of(some_indices(count))
    assert factors.shape == (count, 5)
    assert factors.dtype == np.int64

    images = render(factors)
    assert images.shape == (count, 1, SIZE, SIZE)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) <= {0, 1}

    # Images are the caller's own: writing to them must not change the next ones.
    images[:] = 255
    assert set(np.unique(render(factors))) <= {0, 1}


def test_factors_of_is_in_c_order() -> None:
    assert factors_of(np.array([0])).tolist() == [[0, 0, 0, 0, 0]]
    assert factors_of(np.array([1])).tolist() == [[0, 0, 0, 0, 1]]
    assert factors_of(np.array([COUNT - 1])).tolist() == [[size - 1 for size in GRID]]
    every = factors_of(np.arange(COUNT))
    assert np.array_equal(np.ravel_multi_index(tuple(every.T), GRID), np.arange(COUNT))


def test_images_are_the_stored_ones() -> None:
    # 1,024 images, spread over the grid by a stride that shares no divisor with it.
    images = render(factors_of(np.arange(1024) * 719 % COUNT))
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "1e389b2cd3a49145cbbe8d37335a1b4699f5da45d8ba480f019981428dea0c7c"


def test_order_and_company_change_nothing() -> None:
    factors = factors_of(some_indices(64))
    images = render(factors)
    assert np.array_equal(render(factors[::-1])[::-1], images)
    assert np.array_equal(np.concatenate([render(row[None]) for row in factors]), images)


def test_no_edge_meets_a_pixel_centre() -> None:
    # Otherwise the last bit of a cosine, which differs between platforms, would decide a pixel.
    offset = np.arange(-SIZE, SIZE + 1, dtype=np.float64)
    right, up = np.meshgrid(offset, -offset)
    for degrees in FACTORS[2].values:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = cos * right + sin * up, cos * up - sin * right
        for scale in FACTORS[1].values:
            assert min(np.abs(excess).min() for excess in sprites._excess(u, v, scale)) > 1e-5


def test_only_the_named_symmetries_repeat() -> None:
    grid = np.indices((SHAPES, SCALES, ROTATIONS)).reshape(3, -1).T
    images = render(np.pad(grid, ((0, 0), (0, 2)), constant_values=MIDDLE))[:, 0]
    # A turn after which each shape looks the same, in steps.
    period = np.array([ROTATIONS // 4, ROTATIONS // 2, ROTATIONS])
    expected = [(shape, scale, turn % period[shape]) for shape, scale, turn in grid]

    # Comparing the content alone, one image also can't be another one moved.
    contents = [cropped(image) for image in images]
    assert len(set(contents)) == len(set(expected)) == 420
    assert len(set(zip(contents, expected, strict=True))) == 420


def test_positions_move_the_shape_by_whole_pixels() -> None:
    factors = factors_of(some_indices(200, seed=1))
    images = render(factors)
    home = factors.copy()
    home[:, 3:] = 0
    for image, still, (x, y) in zip(images, render(home), factors[:, 3:], strict=True):
        assert np.array_equal(image, np.roll(still, (y, x), axis=(1, 2)))


@pytest.mark.parametrize("shape", range(SHAPES))
@pytest.mark.parametrize("scale", [0, LARGE])
def test_centroid_follows_the_position(shape: int, scale: int) -> None:
    for rotation in (0, 3, 17):
        along_x = np.array([[shape, scale, rotation, x, MIDDLE] for x in range(XS)])
        along_y = np.array([[shape, scale, rotation, MIDDLE, y] for y in range(YS)])
        (column, still_row), (still_column, row) = map(centroids, map(render, (along_x, along_y)))
        assert (np.diff(column) > 0).all()
        assert (np.diff(row) > 0).all()
        assert np.ptp(still_row) == np.ptp(still_column) == 0
        # x counts columns to the right and y rows downwards, both at the shape's centroid.
        assert np.abs(column - FACTORS[3].values).max() < 0.4
        assert np.abs(row - FACTORS[4].values).max() < 0.4


def test_area_grows_with_scale_and_agrees_between_shapes() -> None:
    grid = np.indices((SHAPES, SCALES, ROTATIONS)).reshape(3, -1).T
    images = render(np.pad(grid, ((0, 0), (0, 2)), constant_values=MIDDLE))
    area = images.sum(axis=(1, 2, 3)).reshape(SHAPES, SCALES, ROTATIONS)
    assert (np.diff(area.astype(int), axis=1) > 0).all()
    mean = area.mean(axis=2)
    assert (np.ptp(mean, axis=0) < 0.025 * mean.min(axis=0)).all()
    assert np.abs(area / mean.mean(axis=0)[None, :, None] - 1).max() < 0.1
    # Scale is a length, so area grows with its square.
    assert mean[:, 0] / mean[:, -1] == pytest.approx(0.25, rel=0.02)


def test_shapes_stay_off_the_border() -> None:
    extremes = np.indices((SHAPES, 1, ROTATIONS, 2, 2)).reshape(5, -1).T
    extremes = extremes * [1, 0, 1, XS - 1, YS - 1] + [0, LARGE, 0, 0, 0]
    images = render(extremes)[:, 0]
    assert not images[:, [0, -1], :].any()
    assert not images[:, :, [0, -1]].any()


def test_rotation_is_counter_clockwise() -> None:
    # The tip of the heart, its farthest pixel, points down, right, up and left in turn.
    tips = []
    for quarter in range(4):
        factors = np.array([[2, LARGE, quarter * ROTATIONS // 4, MIDDLE, MIDDLE]])
        rows, columns = np.nonzero(render(factors)[0, 0])
        right, down = columns - 16 - MIDDLE, rows - 16 - MIDDLE
        farthest = np.argmax(right**2 + down**2)
        tips.append((int(np.sign(right[farthest])), int(np.sign(down[farthest]))))
    assert tips == [(0, 1), (1, 0), (0, -1), (-1, 0)]


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("side", ["below", "above"])
def test_a_factor_out_of_range_is_named(column: int, side: str) -> None:
    name, size = FACTORS[column].name, FACTORS[column].size
    wrong = -1 if side == "below" else size
    factors = np.zeros((3, 5), dtype=np.int64)
    factors[1, column] = wrong
    with pytest.raises(ValueError, match=rf"^{name} must lie in 0\.\.{size - 1}, not {wrong}\.$"):
        render(factors)


@pytest.mark.parametrize("wrong", [-1, COUNT])
def test_an_index_out_of_range_is_named(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"^index must lie in 0\.\.737279, not {wrong}\.$"):
        factors_of(np.array([0, wrong]))


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="index must hold integers, not float64"):
        factors_of(np.array([0.5]))
    with pytest.raises(ValueError, match=r"index must have shape \(N,\), not \(1, 1\)"):
        factors_of(np.array([[0]]))
    with pytest.raises(ValueError, match="factors must hold integers, not bool"):
        render(np.zeros((1, 5), dtype=bool))
    for shape in [(5,), (1, 4), (1, 6)]:
        with pytest.raises(ValueError, match=r"factors must have shape \(N, 5\)"):
            render(np.zeros(shape, dtype=np.int64))
