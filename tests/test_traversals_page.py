"""The traversals screen through the frame: its films, its links, and what it says to bad ones."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_pages import ROOT, page_named, png, raw, text_of

import vae
import vae.store.checkpoint
from vae.elbo.tiles import decode_means
from vae.explore.traversals import prior_quantiles
from vae.figures.pictures import to_bytes

WALKS = ("Dimensions", "Between two images", "Arithmetic", "Sliders", "Prior samples", "Manifold")


def opened(page="traversals", **query):
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app = app.run().switch_page(str(page_named(page))).run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def films(app):
    """The films on a screen, as the browser gets them."""
    found = [json.loads(one.proto.json or "{}") for one in app.get("bidi_component")]
    return [one for one in found if "sheet" in one]


def frame_of(film, row, frame):
    """A frame's pixels, cut out of the sheet as the browser does it."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(film["sheet"].split(",")[1]))))
    cell = row * film["frames"] + frame
    top = cell // film["columns"] * film["height"]
    left = cell % film["columns"] * film["width"]
    return sheet[top : top + film["height"], left : left + film["width"]]


def decoded(model, code):
    loaded = vae.load(ROOT / "checkpoints" / model)
    return to_bytes(decode_means(loaded.model, torch.from_numpy(np.atleast_2d(code)))[0].numpy())


@pytest.mark.parametrize("model", ["digits-2d", "digits-10d", "sprites-10d"])
def test_the_frames_are_what_the_decoder_draws(model):
    _, reference = raw(model)
    app = opened(model=model, sample="23")
    (film,) = films(app)
    order = re.findall(r"\d+", " ".join(row["name"] for row in film["rows"]))
    code = reference["mu"][23].copy()
    for row, frame in ((0, 0), (1, film["frames"] - 1)):
        moved = code.copy()
        moved[int(order[row]) - 1] = prior_quantiles(film["frames"])[frame]
        np.testing.assert_array_equal(frame_of(film, row, frame), decoded(model, moved))
    assert film["rows"][0]["captions"][-1].endswith("2.33, prior quantile 99.0\u00a0%")
    middle = film["rows"][0]["captions"][film["frames"] // 2]
    assert middle.endswith("= 0.00, prior quantile 50.0\u00a0%")


def test_dimensions_stand_in_the_order_of_their_kl():
    _, reference = raw("digits-10d")
    mu, log_variance = reference["mu"], reference["log_variance"]
    means = (0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance)).mean(0)
    (film,) = films(opened(model="digits-10d"))
    assert [row["name"] for row in film["rows"]] == [
        f"dimension {d + 1}" for d in np.argsort(-means)
    ]
    assert film["rows"][0]["notes"][0] == f"KL {means.max():.2f} nats"


def test_a_range_in_posterior_sd_is_centred_on_the_sample():
    _, reference = raw("digits-2d")
    (film,) = films(opened(sample="23", reach="± k posterior sd", k_sd="2"))
    first = film["rows"][0]
    dim = int(first["name"].split()[1]) - 1
    mu, sigma = reference["mu"][23, dim], np.exp(reference["log_variance"][23, dim] / 2)
    ends = [float(re.search(r"= (\S+),", text.replace("−", "-"))[1]) for text in first["captions"]]
    assert (ends[0], ends[-1]) == pytest.approx((mu - 2 * sigma, mu + 2 * sigma), abs=0.006)
    middle = frame_of(film, 0, film["frames"] // 2)
    np.testing.assert_array_equal(middle, decoded("digits-2d", reference["mu"][23]))
    assert first["at"] == film["frames"] // 2
    assert first["mark"] == pytest.approx(0.5)


def test_every_start_changes_the_film():
    starts = [
        {}, {"start": "the prior mean"}, {"start": "a random code"},
        {"start": "a random code", "start_seed": "5"},
        {"start": "a pasted code", "z": "0.5, -0.5"},
    ]  # fmt: skip
    sheets = {films(opened(**query))[0]["sheet"] for query in starts}
    assert len(sheets) == len(starts)


def test_an_uploaded_image_starts_from_its_own_code():
    _, reference = raw("digits-2d")
    app = opened(start="an uploaded image")
    app.file_uploader(key="start_upload").set_value(
        ("digit.png", png(reference["levels"][31, 0], 16), "image/png")
    ).run()
    assert not app.exception
    assert films(app)[0]["sheet"] == films(opened(sample="31"))[0]["sheet"]
    app.file_uploader(key="start_upload").set_value(("x.png", b"junk", "image/png")).run()
    assert "E-IMG-03" in app.error[0].value
    assert films(app)[0]["sheet"] == films(opened())[0]["sheet"]


def test_a_link_restores_dimensions():
    (film,) = films(opened(model="digits-10d", dims=["3", "7"]))
    assert sorted(row["name"] for row in film["rows"]) == ["dimension 3", "dimension 7"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"walk": "Nowhere"}, "asks for walk “Nowhere”"),
        ({"walk": "Manifold", "model": "digits-10d"}, "asks for walk “Manifold”"),
        ({"start": "<script>"}, "asks for start “·script·”"),
        ({"reach": "x"}, "asks for reach"),
        ({"dims": "99"}, "asks for dimension “99”"),
        ({"dims": "0"}, "asks for dimension “0”"),
        ({"start": "a pasted code", "z": "1,2,3"}, "3 numbers, but this model takes 2"),
        ({"start": "a pasted code", "z": "1,NaN"}, "must be finite"),
        ({"start": "a random code", "start_seed": "1e400"}, "asks for start_seed"),
        ({"reach": "± k posterior sd", "k_sd": "inf"}, "asks for k_sd"),
        ({"walk": "Between two images", "to": "99999"}, "asks for to “99999”"),
        ({"walk": "Between two images", "to": "NaN"}, "asks for to “NaN”"),
        ({"walk": "Arithmetic", "plus": "eleven"}, "the group “eleven”"),
        ({"walk": "Prior samples", "temperature": "1e400"}, "asks for temperature"),
        ({"walk": "Manifold", "side": "1000000"}, "asks for side"),
    ],
)
def test_a_bad_link_shows_the_default_and_one_sentence(query, sentence):
    app = opened(**query)
    said = [one.value for one in app.warning]
    assert [sentence in one for one in said] == [True]
    assert len(said[0]) < 300


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("model", ["digits-binary-2d", "sprites-10d"])
def test_every_walk_opens(walk, model):
    app = opened(model=model, walk=walk)
    assert "elb-lead" in text_of(app)
    # The only walk that not every model has.
    assert bool(app.warning) == (walk == "Manifold" and model == "sprites-10d")


def test_the_way_between_two_images_is_measured_right():
    _, reference = raw("digits-10d")
    mu = reference["mu"]
    app = opened(model="digits-10d", walk="Between two images", sample="3", to="40")
    (film,) = films(app)
    others = np.delete(mu, [3, 40], axis=0)
    places = np.linspace(0, 1, film["frames"])[:, None]
    line = (1 - places) * mu[3] + places * mu[40]
    away = np.linalg.norm(line[:, None] - others, axis=-1).min(-1)
    assert f"as far as <b>{away.max():.2f}</b> latent units" in text_of(app)
    tracks = {track["name"]: track for track in film["tracks"]}
    np.testing.assert_allclose(tracks["Nearest data"]["values"][0], away, atol=1e-5)
    log_prior = -0.5 * (line**2).sum(-1) - 5 * np.log(2 * np.pi)
    np.testing.assert_allclose(tracks["log p(z)"]["values"][0], log_prior, atol=1e-5)
    np.testing.assert_array_equal(frame_of(film, 0, 0), decoded("digits-10d", mu[3]))
    np.testing.assert_array_equal(
        frame_of(film, 1, film["frames"] - 1), decoded("digits-10d", mu[40])
    )


def test_arithmetic_goes_from_class_to_class():
    _, reference = raw("digits-10d")
    mu, labels = reference["mu"], reference["labels"]
    direction = mu[labels == 7].mean(0) - mu[labels == 1].mean(0)
    app = opened(model="digits-10d", walk="Arithmetic", sample="3", minus="1", plus="7")
    assert f"lie <b>{np.linalg.norm(direction):.2f}</b> latent units apart" in text_of(app)
    (film,) = films(app)
    amounts = np.linspace(-0.5, 1.5, film["frames"])
    last = mu[3] + amounts[-1] * direction
    np.testing.assert_array_equal(
        frame_of(film, 0, film["frames"] - 1), decoded("digits-10d", last)
    )


def test_a_selection_of_the_map_becomes_a_group():
    app = opened(walk="Arithmetic")
    model = vae.store.checkpoint.load(ROOT / "checkpoints" / "digits-2d")
    app.session_state["group"] = (model.identity, [3, 8, 20])
    app.run()
    app.selectbox(key="plus").set_value("selected on the map").run()
    assert "“selected on the map” (3)" in text_of(app)
    app.button(key="keep_group").click().run()
    assert "kept 1" in app.selectbox(key="minus").options


def test_sliders_follow_the_start_and_the_hand():
    _, reference = raw("digits-10d")
    app = opened(model="digits-10d", walk="Sliders", sample="3")
    names = {one.label.split(",")[0]: one for one in app.slider}
    assert len(names) == 10
    assert names["z4"].value == pytest.approx(reference["mu"][3, 3])
    names["z4"].set_value(2.5).run()
    wanted = reference["mu"][3].copy()
    wanted[3] = 2.5
    shown = np.array([float(value) for value in app.code[0].value.split(",")])
    np.testing.assert_allclose(shown, wanted, rtol=1e-3)
    app.number_input(key="sample").set_value(4).run()
    names = {one.label.split(",")[0]: one for one in app.slider}
    assert names["z4"].value == pytest.approx(reference["mu"][4, 3])


def test_start_from_here_puts_the_code_into_the_link():
    app = opened(walk="Sliders")
    app.button(key="sliders_start").click().run()
    assert not app.exception and not app.warning
    assert app.session_state["start"] == "a pasted code"
    shown = [float(value) for value in app.session_state["z"].split(",")]
    np.testing.assert_allclose(shown, raw("digits-2d")[1]["mu"][0], rtol=1e-3)


def test_the_overview_plays_the_strongest_dimension():
    (film,) = films(opened("overview", model="digits-10d"))
    assert film["play"] and not film["commits"]
    assert film["rows"][0]["name"] == "dimension 6"
    assert len(film["rows"]) == 3
