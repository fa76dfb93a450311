"""What the plane is sent: the bytes hold what was packed, and colours mean what they say."""

import base64
import io
import json
import re

import numpy as np
import pytest
from bench.crowd import write_crowd
from PIL import Image

from vae.figures import palette
from vae.figures.frame import framed_span
from vae.figures.latent_map import all_pairs
from vae.figures.pictures import figure_html
from vae.figures.plane import (
    MOST_NAMED,
    Fact,
    cluster_labels,
    colour_slot,
    field_slot,
    group_slot,
    points_slot,
    prior_rings,
    scattered,
    sheet_slot,
    single_colour_slot,
    thumbnails_slot,
)

KINDS = {"f4": np.float32, "u4": np.uint32, "u1": np.uint8}


def unpack(slot):
    """The same reading as web/plane/store.js: header's length, header, arrays on borders of 8."""
    length = int.from_bytes(slot.data[:4], "little")
    head = json.loads(slot.data[4 : 4 + length])
    assert head["slot"] == slot.name
    assert head["version"] == slot.version
    for entry in head["arrays"]:
        assert entry["start"] % 8 == 0
        kind = KINDS[entry["kind"]]
        head[entry["name"]] = np.frombuffer(slot.data, kind, entry["count"], entry["start"])
    return head


@pytest.mark.parametrize("count", [1, 2, 7, 1_000])
def test_points_come_back(count):
    generator = np.random.default_rng(count)
    places, spread = generator.standard_normal((2, count, 2))
    labels = generator.integers(-1, 3, count)
    facts = [Fact("KL", generator.standard_normal(count)), Fact("β", np.full(count, np.nan), "")]
    found = unpack(points_slot("a", places, spread, labels, ("x", "ÿ", "z"), facts))
    assert np.array_equal(found["x"], places[:, 0].astype(np.float32))
    assert np.array_equal(found["y"], places[:, 1].astype(np.float32))
    assert np.array_equal(found["sd_y"], spread[:, 1].astype(np.float32))
    assert found["rho"].size == 0
    assert np.array_equal(found["labels"], np.where(labels < 0, 255, labels))
    assert found["names"] == ["x", "ÿ", "z"]
    assert np.array_equal(found["fact_0"], facts[0].values.astype(np.float32))
    assert np.isnan(found["fact_1"]).all()


def test_the_version_follows_the_content():
    places = np.zeros((3, 2))
    first = points_slot("a", places)
    assert first.version == points_slot("a", places.copy()).version
    assert first.version != points_slot("a", places + 1).version
    assert first.version != points_slot("b", places).version


def test_a_scale_spans_the_middle_of_the_values():
    values = np.append(np.linspace(0, 10, 1_001), [1e6, np.nan])
    found = unpack(colour_slot("a", values, "KL", "nats"))
    assert found["clipped"]
    assert found["low"] == pytest.approx(0.1, abs=0.02)
    assert found["high"] == pytest.approx(9.92, abs=0.02)
    codes = found["codes"]
    assert codes[-1] == 255
    assert codes[-2] == codes[1_000] == 254
    assert codes[0] == 0
    assert codes[500] == pytest.approx(127, abs=1)
    assert (np.diff(codes[:1_001].astype(int)) >= 0).all()
    assert len(found["palette"]) == 256


def test_equal_values_have_one_colour_and_no_values_none():
    assert set(unpack(colour_slot("a", np.full(5, 3.0), "KL"))["codes"]) == {0}
    assert set(unpack(colour_slot("a", np.full(5, np.nan), "KL"))["codes"]) == {255}


def test_classes_have_their_colour_and_the_unlabelled_none_of_them():
    names = [f"class {k}" for k in range(12)]
    found = unpack(colour_slot("a", np.array([0, 11, -1, 4]), "label", class_names=names))
    assert [found["names"][code] for code in found["codes"]] == [
        "class 0", "class 11", "unlabelled", "class 4",
    ]  # fmt: skip
    rgb = [int(palette.CLASSES[4][k : k + 2], 16) for k in (1, 3, 5)]
    assert found["palette"][4] == rgb
    assert found["palette"][12] not in found["palette"][:12]
    assert "unlabelled" not in unpack(colour_slot("a", np.array([1]), "", "", names))["names"]
    assert unpack(single_colour_slot("a", 3, "#102030"))["palette"] == [[16, 32, 48]]


def test_pixels_and_members_come_back():
    frames = np.arange(2 * 2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 2, 3, 4, 5)
    found = unpack(sheet_slot("a", "coarse", frames, (0, 1, 2, 3)))
    assert np.array_equal(found["pixels"].reshape(frames.shape), frames)
    assert (found["side"], found["channels"], found["height"], found["width"]) == (2, 3, 4, 5)
    images = frames.reshape(4, 3, 4, 5) / 255
    found = unpack(thumbnails_slot("a", np.array([9, 4, 2, 7]), images, (0, 1, 2, 3)))
    assert found["rows"].tolist() == [9, 4, 2, 7]
    assert np.array_equal(found["pixels"].reshape(images.shape), frames.reshape(4, 3, 4, 5))
    found = unpack(group_slot("a", np.array([True, False, True])))
    assert found["members"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 1024, 512), (3, 300, 200)])
def test_large_images_are_reduced_before_they_are_sent(channels, height, width):
    images = np.full((3, channels, height, width), 0.5, np.float32)
    found = unpack(thumbnails_slot("a", np.arange(3), images, (0, 1, 2, 3)))
    assert (found["height"], found["width"]) == (96, round(96 * width / height))
    assert found["channels"] == channels and set(found["pixels"]) == {128}
    assert len(found["pixels"]) == 3 * channels * found["height"] * found["width"]
    encoded = re.search(r"base64,([^\"]+)", figure_html(images[0], "", "", width=100)).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).height == 200


def test_holes_are_where_the_aggregate_is_below_the_threshold_and_the_prior_is_not():
    log_prior = np.array([[-1.0, -2.0], [-5.0, -30.0]])
    log_aggregate = np.array([[-9.0, -1.0], [-9.0, -9.0]])
    ratio = log_aggregate - log_prior
    holes = unpack(field_slot("a", ratio, log_aggregate, -4.0, (0, 0, 1, 1)))["holes"]
    assert holes[0] == 1
    assert holes[1] == 0
    assert 1 > holes[2] > holes[3] > 0
    none = unpack(field_slot("a", ratio, log_aggregate, None, (0, 0, 1, 1)))
    assert not none["holes"].any()
    assert np.allclose(none["values"], ratio.ravel())


def test_a_cluster_is_named_and_a_mixture_is_not():
    generator = np.random.default_rng(0)
    places = np.concatenate((generator.normal(5, 0.1, (50, 2)), generator.normal(0, 1, (400, 2))))
    labels = np.concatenate((np.zeros(50, int), 1 + np.arange(400) % 4))
    found = cluster_labels(places, labels, list("abcde"))
    assert [one["text"] for one in found] == ["a"]
    assert found[0]["at"] == pytest.approx([5, 5], abs=0.1)


def test_of_many_classes_the_commonest_have_a_colour_and_every_dot_its_name():
    generator = np.random.default_rng(0)
    labels = np.concatenate((np.repeat(np.arange(250, 300), 20), np.arange(250), [-1, 300]))
    labels = generator.permutation(labels)
    names = [f"class {k}" for k in range(300)]
    found = unpack(colour_slot("a", labels, "label", class_names=names))
    assert len(found["names"]) == MOST_NAMED + 2
    said = np.array(found["names"])[found["codes"]]
    assert set(said[labels < 250]) == {"270 other classes", "unlabelled"}
    assert (said[(labels < 0) | (labels >= 300)] == "unlabelled").all()
    own = np.char.startswith(said, "class")
    assert (said[own] == [names[label] for label in labels[own]]).all()
    assert len(set(said[own])) == MOST_NAMED
    grey = [found["palette"][-2], found["palette"][-1]]
    assert all(colour not in found["palette"][:MOST_NAMED] for colour in grey)
    points = unpack(points_slot("a", np.zeros((len(labels), 2)), None, labels, names))
    assert points["labels"][labels == 299].tolist() == [299] * np.count_nonzero(labels == 299)
    # A number that no class has is read as "unlabelled".
    assert points["labels"][labels == -1][0] >= len(points["names"])


def test_clusters_of_the_commonest_classes_are_named_and_places_may_be_missing():
    places = np.repeat(np.arange(300.0)[:, None], 3, 0) * (1, 0)
    labels = np.repeat(np.arange(300), 3)
    places, labels = np.concatenate((places, places[-60:])), np.concatenate((labels, labels[-60:]))
    places[1] = np.nan
    found = cluster_labels(places, labels, [f"c{k}" for k in range(300)])
    assert len(found) == MOST_NAMED
    assert {f"c{k}" for k in range(280, 300)} <= {one["text"] for one in found}
    assert np.isfinite([one["at"] for one in found]).all()


def test_dots_below_a_density_fill_it_evenly():
    """Of z from a density and heights below it, any part of the area holds its share."""
    z = np.random.default_rng(0).standard_normal(20_000)
    density = np.exp(-0.5 * z**2)
    height = scattered(density)
    assert ((height >= 0) & (height <= density)).all()
    assert np.mean(height / density < 0.25) == pytest.approx(0.25, abs=0.01)
    box = (np.abs(z) < 0.5) & (height < np.exp(-0.125))
    assert box.mean() == pytest.approx(np.exp(-0.125) / np.sqrt(2 * np.pi), abs=0.01)


def test_the_first_view_frames_nearly_all_codes_and_the_other_all():
    crowd = np.random.default_rng(0).uniform(-4, 4, (990, 2))
    near, far = framed_span(np.concatenate((crowd, np.full((7, 2), -9.0))), 3.4)
    assert 4 < near < 4.5
    assert far == pytest.approx(9.54)
    # Where all need little more room than nearly all, all are shown at once.
    assert len({*framed_span(crowd, 3.4)}) == 1
    assert framed_span(0.1 * crowd, 3.4) == (3.4, 3.4)
    crowd[5] = np.nan
    assert np.isfinite(framed_span(crowd, 0.0)).all()


def test_rings_of_the_prior_are_circles():
    radii = [np.linalg.norm(ring["points"], axis=1) for ring in prior_rings()]
    for radius, found in zip((1, 2, 3), radii, strict=True):
        assert found == pytest.approx(np.full(len(found), radius))


def test_every_pair_stands_below_the_diagonal_once():
    generator = np.random.default_rng(0)
    mu = generator.standard_normal((50, 5))
    figure = all_pairs(mu, [3, 0, 4], np.arange(5.0), np.zeros(50, int), 7)
    pairs = [tuple(one) for one in figure.data[0].customdata]
    assert sorted(pairs) == [("z1", "z5"), ("z4", "z1"), ("z4", "z5")]
    assert len(figure.data[1].x) == 3


def test_a_far_code_leaves_the_small_maps_as_they_are():
    mu = 0.5 * np.random.default_rng(0).standard_normal((500, 3))
    far = mu.copy()
    far[3] = 50
    first, second = (
        all_pairs(one, [0, 1, 2], np.ones(3), np.zeros(500, int), 7) for one in (mu, far)
    )
    assert second.data[1].x == pytest.approx(first.data[1].x)


def test_a_crowd_opens_with_its_count_and_the_sources_images(tmp_path, checkpoint):
    from vae.store.checkpoint import load
    from vae.store.originals import originals

    source = checkpoint("digits-2d")
    write_crowd(tmp_path / "crowd", source, 5_000)
    crowd = load(tmp_path / "crowd")
    assert crowd.reference.size == 5_000
    # One model with two reference sets, which caches must not mix up.
    assert crowd.weights_sha256 == source.weights_sha256
    assert crowd.identity != source.identity
    images = originals(crowd, np.array([0, 4_999]))
    rows = [int(np.flatnonzero(source.reference.indices == crowd.reference.indices[k])[0])
            for k in (0, 4_999)]  # fmt: skip
    assert np.array_equal(images, source.reference.levels[rows])
    with pytest.raises(ValueError, match="positive"):
        write_crowd(tmp_path / "none", source, 0)
