"""Walks through the latent space: known answers, and films whose every pixel is the decoder's."""

import csv
import io
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vae.data.images.encoding import encode_png
from vae.elbo.tiles import decode_means
from vae.explore.arithmetic import group_direction, shifted
from vae.explore.interpolation import linear, slerp, steps
from vae.explore.profile import nearest_means, profile, typical
from vae.explore.traversals import (
    manifold_codes,
    prior_codes,
    prior_quantiles,
    prior_share,
    traversal_codes,
)
from vae.figures.export import animation, animation_frames, picture
from vae.figures.films import Row, Track, film_data, frame_count, sprite_sheet
from vae.figures.pictures import to_bytes
from vae.scoring.files import prepare
from vae.ui.components.film import place_of
from vae.ui.walks import decoded
from vae.ui.walks.export import codes_csv
from vae.ui.walks.start import code_text, parse_code


def test_a_traversal_moves_one_dimension_only():
    start = np.array([0.5, -1.0, 2.0])
    codes = traversal_codes(start, [2, 0], np.array([-1.0, 0.0, 1.0, 2.0]))
    assert codes.shape == (2, 4, 3)
    np.testing.assert_array_equal(codes[0, :, 2], [-1, 0, 1, 2])
    np.testing.assert_array_equal(codes[0, :, :2], np.tile(start[:2], (4, 1)))
    np.testing.assert_array_equal(codes[1, :, 1:], np.tile(start[1:], (4, 1)))


def test_quantiles_and_shares_undo_each_other():
    values = prior_quantiles(9, 0.02)
    np.testing.assert_allclose(prior_share(values), np.linspace(0.02, 0.98, 9))
    assert prior_share(np.array([[0.0, 1.0]])).tolist() == [[0.5, NormalDist().cdf(1)]]


def test_the_manifold_is_laid_out_like_a_plane():
    codes = manifold_codes(5)
    assert (np.diff(codes[..., 0], axis=1) > 0).all()  # z1 rises to the right
    assert (np.diff(codes[..., 1], axis=0) < 0).all()  # z2 rises upwards
    np.testing.assert_allclose(codes[2, 2], 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(prior_share(codes[0, :, 0])), 0.98 / 4)


def test_temperature_scales_the_same_draws():
    warm, cool = prior_codes(3, 50, 7), prior_codes(3, 50, 7, 0.5)
    np.testing.assert_array_equal(cool, warm / 2)
    assert not prior_codes(3, 5, 7, 0.0).any()
    assert (prior_codes(3, 5, 8) != warm[:5]).all()


codes_of_three = st.lists(st.floats(-4, 4), min_size=3, max_size=3).map(np.array)


@given(codes_of_three, codes_of_three)
def test_both_ways_begin_and_end_at_their_images(first, second):
    for way in (linear, slerp):
        path = way(first, second, steps(7))
        np.testing.assert_allclose(path[[0, -1]], [first, second], atol=1e-7)
        assert np.isfinite(path).all()


def test_the_arc_keeps_the_radius_where_the_line_cuts_through():
    first, second = np.array([2.0, 0, 0]), np.array([0, 2.0, 0])
    arc, line = slerp(first, second, steps(5)), linear(first, second, steps(5))
    np.testing.assert_allclose(np.linalg.norm(arc, axis=-1), 2)
    np.testing.assert_allclose(arc[2], [math.sqrt(2), math.sqrt(2), 0])
    np.testing.assert_allclose(line[2], [1, 1, 0])


@pytest.mark.parametrize("second", [[-1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
def test_where_there_is_no_arc_it_is_the_line(second):
    first, second = np.array([1.0, 0.0]), np.array(second)
    np.testing.assert_array_equal(slerp(first, second, steps(5)), linear(first, second, steps(5)))


def test_overshoot_goes_beyond_both_ends():
    assert steps(5, 0.5).tolist() == [-0.5, 0, 0.5, 1, 1.5]


def test_arithmetic_is_the_difference_of_means():
    mu = np.array([[0.0, 0], [2, 0], [0, 4], [0, 8]])
    direction = group_direction(mu, np.array([0, 1]), np.array([2, 3]))
    np.testing.assert_array_equal(direction, [-1, 6])
    path = shifted(np.array([1.0, 1]), direction, np.array([0, 1.0]))
    np.testing.assert_array_equal(path, [[1, 1], [0, 7]])
    with pytest.raises(ValueError, match="no mean code"):
        group_direction(mu, np.array([], dtype=int), np.array([1]))


def test_a_profile_agrees_with_torch_and_with_brute_force(checkpoint):
    model = checkpoint("digits-2d")
    mu = model.reference.mu
    sigma = np.exp(model.reference.log_variance / 2)
    codes = prior_codes(2, 20, 3)
    z = torch.from_numpy(codes)
    found = profile(model.model, mu, sigma, codes, left_out=(4,))
    np.testing.assert_allclose(
        found.log_prior, Normal(0.0, 1.0).log_prob(z).sum(-1).numpy(), atol=1e-9
    )
    parts = Independent(Normal(torch.from_numpy(mu), torch.from_numpy(sigma)), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(len(mu), dtype=torch.float64)), parts)
    np.testing.assert_allclose(found.log_aggregate, mixture.log_prob(z).numpy(), atol=1e-6)
    away = np.linalg.norm(codes[:, None] - mu, axis=-1)
    away[:, 4] = np.inf
    np.testing.assert_allclose(found.distance, away.min(-1), atol=1e-6)
    np.testing.assert_array_equal(found.nearest, away.argmin(-1))
    image = model.config.image
    levels = image.to_levels(decode_means(model.model, z).numpy())
    again = model.encode(torch.from_numpy(image.from_levels(levels))).mean.numpy()
    np.testing.assert_allclose(found.round_trip, np.linalg.norm(codes - again, axis=-1), atol=1e-4)


def test_far_from_the_data_every_number_says_so(checkpoint):
    model = checkpoint("digits-2d")
    mu = model.reference.mu
    sigma = np.exp(model.reference.log_variance / 2)
    usual = typical(model.model, mu, sigma, np.arange(0, len(mu), 7))
    far = profile(model.model, mu, sigma, np.array([[9.0, 9.0]]))
    assert far.log_prior[0] < usual.log_prior
    assert far.log_aggregate[0] < usual.log_aggregate
    assert far.distance[0] > usual.distance > 0
    assert far.round_trip[0] > usual.round_trip


def test_a_left_out_image_is_never_the_nearest():
    mu = np.array([[0.0, 0], [1, 0], [5, 0]])
    nearest, distance = nearest_means(mu, np.array([[0.1, 0]]), left_out=(0, 1))
    assert (nearest.tolist(), distance.tolist()) == ([2], pytest.approx([4.9]))


def read_sheet(url):
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (26, 1, 8, 8), (30, 3, 5, 9), (7, 1, 40, 10)])
def test_a_sprite_sheet_holds_every_frame_as_it_is(shape):
    frames = np.random.default_rng(0).random(shape).astype(np.float32)
    sheet, (_, _, height, width) = sprite_sheet(frames), shape
    pixels, columns = read_sheet(sheet.url), sheet.columns
    assert (sheet.width, sheet.height) == (width, height)
    for i, frame in enumerate(frames):
        top, left = i // columns * height, i % columns * width
        cell = pixels[top : top + height, left : left + width]
        np.testing.assert_array_equal(cell, to_bytes(frame))
    assert max(pixels.shape[:2]) <= 4 * math.sqrt(len(frames) * height * width) + 40


def row(**changes):
    return Row("one", ("note",), ["a", "b", "c"], 1, 0.5)._replace(**changes)


def test_a_films_identity_follows_its_content():
    sheet = sprite_sheet(np.zeros((3, 1, 4, 4), np.float32))

    def made(rows, **options):
        return film_data(sheet, rows, "a film", **options)

    plain = made([row()])
    assert plain == made([row()])
    assert plain["id"] != made([row(at=2)])["id"]
    assert plain["id"] != made([row()], play=True)["id"]
    # Other texts fill the same rows again; a track more must be built.
    track = Track("log p(z)", "nats", "#000", np.array([[-1.0, -2.0, -1.5]]))
    assert plain["shape"] == made([row(name="two")])["shape"]
    assert plain["shape"] != made([row()], tracks=[track])["shape"]
    shown = made([row()], tracks=[track])["tracks"][0]
    assert shown["range"] == "\N{MINUS SIGN}2.00 to \N{MINUS SIGN}1.00 nats"
    assert shown["shown"][0][1] == "\N{MINUS SIGN}2.00 nats"
    above = track._replace(usual=0.5)
    shown = made([row()], tracks=[above])["tracks"][0]
    assert (shown["high"], shown["usual_text"]) == (0.5, "usual 0.50")
    json.dumps(plain)


def test_films_of_large_images_have_fewer_frames():
    counts = [frame_count(10, side, side) for side in (8, 64, 256, 1024)]
    assert counts[:2] == [25, 25]
    assert counts == sorted(counts, reverse=True)
    assert all(count % 2 for count in counts)


@pytest.mark.parametrize(
    "sent",
    [
        None, 3, "place", [], {}, {"film": "other", "row": 0, "frame": 0},
        {"film": "this", "row": 1, "frame": 0}, {"film": "this", "row": -1, "frame": 0},
        {"film": "this", "row": 0, "frame": 3}, {"film": "this", "row": 0, "frame": "1"},
        {"film": "this", "row": True, "frame": 0}, {"film": "this", "row": 0, "frame": 1.5},
        {"film": "this", "row": 0, "frame": math.nan}, {"film": "this"},
    ],
)  # fmt: skip
def test_what_is_no_place_of_this_film_is_none(sent):
    data = {"id": "this", "rows": [row()], "frames": 3}
    assert place_of(sent, data) is None
    assert place_of({"film": "this", "row": 0, "frame": 2}, data) == (0, 2)


@given(st.lists(st.floats(-99, 99), min_size=1, max_size=12))
def test_a_code_survives_its_text(values):
    again = parse_code(code_text(np.array(values)), len(values))
    np.testing.assert_allclose(again, values, rtol=1e-3, atol=1e-300)


@pytest.mark.parametrize("text", ["[1, -2]", "1 -2", "1;\N{MINUS SIGN}2", " 1.0\n-2e0 "])
def test_a_code_is_read_however_it_was_written(text):
    assert parse_code(text, 2).tolist() == [1, -2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1", "1 numbers, but this model takes 2"),
        ("1, 2, 3", "3 numbers, but this model takes 2"),
        ("1, NaN", "Number 2 of the code, “NaN”, must be finite"),
        ("inf, 0", "must be finite"),
        ("1e9, 0", "at most 1000"),
        ("1, two", "“two”, is no number"),
        ("<b>, 0", "“·b·”, is no number"),
        ("9" * 5_000 + ", 0", "must be finite"),
    ],
)
def test_a_code_that_is_none_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=said) as refusal:
        parse_code(text, 2)
    assert len(str(refusal.value)) < 160


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_exported_film_has_every_frame(kind, channels):
    frames = np.random.default_rng(1).random((3, 9, channels, 8, 8)).astype(np.float32)
    with Image.open(io.BytesIO(animation(frames, kind))) as film:
        assert (film.format, film.n_frames) == (kind, 9)
        assert film.info["loop"] == 0
        if (kind, channels) == ("GIF", 3):
            return  # 256 colours are fewer than there are here
        for i, page in enumerate(animation_frames(frames)):
            film.seek(i)
            mode = "L" if channels == 1 else "RGB"
            np.testing.assert_array_equal(np.asarray(film.convert("RGB").convert(mode)), page)


@pytest.mark.parametrize("name", ["sprites-10d", "mnist-2d", "digits-2d"])
def test_an_uploaded_start_is_the_image_that_is_scored(checkpoint, name):
    model = checkpoint(name)
    pixels = np.zeros((128, 128), np.uint8)
    pixels[10:60, 20:50] = 255
    file = encode_png(pixels)
    found, scored = decoded.encoded(model, file), prepare(model, file)
    np.testing.assert_array_equal(found.prepared.levels, scored.levels)
    assert found.prepared.steps == scored.steps
    mu = model.encode(model.observe(scored.levels[None])).mean[0]
    np.testing.assert_allclose(found.mu, mu, atol=1e-5)


def test_an_exported_grid_shows_every_image_in_blocks():
    images = np.linspace(0, 1, 6, dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8))
    with Image.open(io.BytesIO(picture(images.astype(np.float32), 3))) as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (2 * 8 * 16 + 16, 3 * 8 * 16 + 2 * 16)
    assert pixels[0, 0] == 0 and pixels[-1, -1] == 255


def test_large_images_are_not_enlarged():
    with Image.open(io.BytesIO(picture(np.zeros((1, 3, 300, 200), np.float32), 1))) as one:
        assert one.size == (200, 300)


def test_a_table_of_codes_reads_back():
    codes = np.array([[0.1, -2.0], [1 / 3, 4.0]])
    rows = list(csv.DictReader(io.StringIO(codes_csv(codes, {"frame": [0, 1]}).decode())))
    assert list(rows[0]) == ["frame", "z_1", "z_2"]
    assert float(rows[1]["z_1"]) == 1 / 3


def test_a_sheet_of_large_images_is_thinned():
    sheet = sprite_sheet(np.zeros((7, 1, 1_024, 512), np.float32))
    assert (sheet.width, sheet.height) == (256, 512)
    assert max(read_sheet(sheet.url).shape) <= 4_096
