"""The latent map through the frame: settings, links, holes, groups, without a browser."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from test_plane import unpack

from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.aggregate.holes import holes
from vae.explore.projection import perplexity, principal_axes, tsne
from vae.figures.plane import Slot
from vae.store.checkpoint import load
from vae.ui import access
from vae.ui.map import all_codes, latent_map

ROOT = Path(__file__).parents[1]


def open_map(query=(), **state):
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    for key, value in state.items():
        app.session_state[key] = value
    for key, value in dict(query).items():
        app.query_params[key] = value
    app = app.run().switch_page(str(ROOT / "pages" / "latent_map.py"))
    # A change of screen drops what the link says, so it is said again.
    for key, value in dict(query).items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def sent(app):
    """What the plane was sent: its own data and its parts, by name."""
    parts, data = {}, None
    for element in app.get("bidi_component"):
        proto = element.proto
        if proto.component_name == "elboscope_plane":
            data = json.loads(proto.json)
        elif proto.component_name == "elboscope_plane_store":
            name = json.loads(proto.bytes[4 : 4 + int.from_bytes(proto.bytes[:4], "little")])
            parts[name["slot"]] = unpack(Slot(name["slot"], name["version"], proto.bytes))
    return data, parts


def html(app):
    return " ".join(element.proto.body for element in app.get("html"))


def test_the_plane_is_sent_the_codes_and_their_spread(checkpoint):
    reference = checkpoint("digits-2d").reference
    data, parts = sent(open_map(sample=7))
    assert np.allclose(np.stack((parts["points"]["x"], parts["points"]["y"]), -1), reference.mu)
    assert np.allclose(parts["points"]["sd_x"], np.exp(reference.log_variance[:, 0] / 2))
    assert data["selected"] == 7
    assert {name: part["version"] for name, part in parts.items()} == {
        name: version for name, version in data["versions"].items() if version
    }
    kl = 0.5 * (reference.mu**2 + np.exp(reference.log_variance) - 1 - reference.log_variance)
    assert np.allclose(parts["points"]["fact_0"], kl.sum(-1), atol=1e-4)


@pytest.mark.parametrize(
    "colour", ["KL", "expected log-likelihood", "ELBO", "percentile", "log q̄(z)/p(z)"]
)
def test_every_colouring_shows_its_quantity(checkpoint, colour):
    reference = checkpoint("digits-2d").reference
    _, parts = sent(open_map(colour=colour))
    mu, sigma = torch.from_numpy(reference.mu), torch.from_numpy(reference.log_variance / 2).exp()
    kl = (0.5 * (mu**2 + sigma**2 - 1) - sigma.log()).sum(-1).numpy()
    calibration = reference.elbo[reference.split == 1]
    expected = {
        "KL": kl,
        "expected log-likelihood": reference.expected_log_likelihood,
        "ELBO": reference.expected_log_likelihood - kl,
        "percentile": [100 * np.mean(calibration < elbo) for elbo in reference.elbo],
        "log q̄(z)/p(z)": aggregate_log_density(mu, sigma, mu).numpy()
        + (0.5 * mu.square().sum(-1) + np.log(2 * np.pi)).numpy(),
    }[colour]
    assert np.allclose(parts["colour"]["values"], expected, atol=1e-3)


def test_the_holes_are_stated_with_their_error(checkpoint):
    reference = checkpoint("digits-2d").reference
    app = open_map(layers=[latent_map.HOLES])
    sigma = torch.from_numpy(reference.log_variance / 2).exp()
    found = holes(torch.from_numpy(reference.mu), sigma)
    assert f"<b>{100 * found.share:.1f} % ± {100 * found.share_se:.1f} %</b>" in html(app)
    _, parts = sent(app)
    assert 0 < np.count_nonzero(parts["field"]["holes"]) < parts["field"]["holes"].size


def test_a_model_with_more_dimensions_says_what_the_plane_is():
    app = open_map(model="digits-10d", sample=4)
    captions = " ".join(one.value for one in app.caption)
    assert "hold the other 8 at sample 4's values" in captions
    app.segmented_control(key="hold").set_value("0").run()
    assert "hold the other 8 at 0" in " ".join(one.value for one in app.caption)
    app.selectbox(key="view").set_value("PCA").run()
    assert not app.exception
    assert "of their variance is seen here" in " ".join(one.value for one in app.caption)
    data, parts = sent(app)
    assert parts["points"]["rho"].size == parts["points"]["x"].size
    assert "field" not in parts
    app.selectbox(key="view").set_value("t-SNE").run()
    assert not app.exception
    assert "no place of this picture can be decoded" in " ".join(one.value for one in app.caption)
    data, parts = sent(app)
    assert "coarse" not in parts
    assert np.isfinite(parts["points"]["x"]).all()


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"across": "z11"}, "a dimension across “z11”"),
        ({"up": "z0"}, "a dimension up “z0”"),
        ({"across": "NaN"}, "a dimension across “NaN”"),
        ({"across": "z3", "up": "z3"}, "a dimension up “z3”"),
        ({"view": "umap"}, "a view “umap”"),
        ({"colour": "x" * 5_000}, "a colouring “xxxxxxxxxxxxxxxxxxxx”"),
        ({"hold": "1"}, "a place for the other dimensions “1”"),
        ({"layers": "icing"}, "a layer “icing”"),
    ],
)
def test_a_bad_setting_is_named_and_the_default_shown(query, sentence):
    app = open_map(query, model="digits-10d")
    found = [one.value for one in app.warning if sentence in one.value]
    assert len(found) == 1
    assert len(found[0]) < 400
    data, _ = sent(app)
    assert len({*data["names"]}) == 2


def test_a_smaller_model_does_not_keep_dimensions_that_it_lacks():
    app = open_map(model="digits-10d")
    app.selectbox(key="across").set_value("z9").run()
    app.selectbox(key="model").set_value("digits-2d").run()
    assert not app.exception
    assert sent(app)[0]["names"] == ["z1", "z2"]


def test_a_group_shows_its_means_and_belongs_to_its_model(checkpoint):
    model = checkpoint("digits-2d")
    rows = np.arange(40, 60)
    app = open_map(group=(model.identity, rows))
    assert any(one.value == "The group: 20 samples" for one in app.subheader)
    table = next(one.value for one in app.dataframe if "of the group" in one.value)
    assert (
        table["of the group"][2]
        .replace("−", "-")
        .startswith(f"{model.reference.elbo[rows].mean():.2f}")
    )
    _, parts = sent(app)
    assert np.flatnonzero(parts["group"]["members"]).tolist() == rows.tolist()
    app.selectbox(key="model").set_value("digits-binary-2d").run()
    assert not app.exception
    assert not any("The group" in one.value for one in app.subheader)


@pytest.fixture
def among_odd_models(odd_models, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(odd_models))
    access.entries.clear()
    yield odd_models
    access.entries.clear()


def test_one_dimension_is_a_line_under_its_density(among_odd_models):
    """Dots lie at their codes, below the mixture of all Gaussians, which is drawn above them."""
    reference = load(among_odd_models / "one").reference
    data, parts = sent(open_map(model="one", sample=3, layers=[latent_map.PRIOR]))
    mu, sigma = reference.mu[:, 0], np.exp(reference.log_variance[:, 0] / 2)

    def mixture(z):
        away = (z[:, None] - mu) / sigma
        return (np.exp(-0.5 * away**2) / (sigma * np.sqrt(2 * np.pi))).mean(1)

    assert np.allclose(parts["points"]["x"], mu)
    assert (parts["points"]["y"] >= 0).all()
    assert (parts["points"]["y"] <= mixture(mu) * (1 + 1e-5)).all()
    assert np.allclose(parts["points"]["sd_x"], sigma)
    assert not parts["points"]["sd_y"].any()
    aggregate, prior = (np.array(line["points"]) for line in data["lines"])
    assert np.allclose(aggregate[:, 1], mixture(aggregate[:, 0]))
    assert np.allclose(prior[:, 1], np.exp(-0.5 * prior[:, 0] ** 2) / np.sqrt(2 * np.pi))
    assert not data["equal"]
    assert data["names"] == ["z1", "density"]
    # Every column of the lattice is one code's picture.
    side = parts["coarse"]["side"]
    sheet = parts["coarse"]["pixels"].reshape(side, side, -1)
    assert (sheet == sheet[:1]).all()
    assert not (sheet == sheet[:, :1]).all()


@pytest.mark.parametrize("view", ["PCA", "t-SNE"])
def test_codes_that_are_all_equal_are_said_to_be(view, among_odd_models):
    app = open_map(model="equal", view=view)
    assert f"{view} has nothing to spread out" in app.info[0].value
    data, _ = sent(app)
    assert all(name.startswith("z") for name in data["names"])
    assert np.isfinite(data["home"]).all()


def test_any_of_many_classes_is_found_and_becomes_the_group(among_odd_models):
    labels = load(among_odd_models / "classes").reference.labels
    app = open_map(model="classes")
    wanted = int(labels.max())
    app.selectbox(key="find").set_value(wanted).run()
    assert not app.exception
    _, parts = sent(app)
    found = np.flatnonzero(parts["group"]["members"])
    assert np.array_equal(found, np.flatnonzero(labels == wanted))
    words = " ".join(one.value for one in app.caption)
    assert f"class {wanted}" in words
    assert "commonest of 300 classes" in words
    {one.label: one for one in app.button}["Forget the group"].click().run()
    assert app.selectbox(key="find").value is None


def test_equal_codes_have_no_directions_and_few_have_no_neighbours():
    with pytest.raises(ValueError, match="all equal"):
        principal_axes(np.ones((60, 4)) + 1e-9)
    with pytest.raises(ValueError, match="all equal"):
        tsne(np.ones((60, 4)))
    with pytest.raises(ValueError, match="4 to"):
        tsne(np.eye(3))
    assert perplexity(60) == pytest.approx(59 / 3)
    assert perplexity(1_000) == 30
    # Along one direction only: the second carries nothing.
    line = np.outer(np.arange(10.0), [1, 0, 0])
    assert principal_axes(line).shares == pytest.approx([1, 0])


def _many_dots():
    import numpy as np
    import streamlit as st

    from vae.figures.plane import Fact
    from vae.ui.components.plane import choose, scatter

    places = np.random.default_rng(0).standard_normal((5_000, 2))
    scatter(
        places, key="dots", alt="Dots", axes=("x, nats", "y, nats"), names=("x", "y"),
        facts=[Fact("x", places[:, 0])], selected=3,
    )  # fmt: skip
    for asked in (7, True, -1, 5_000, "4", None, 1.0):
        choose(5_000)(asked)
    st.text(st.session_state["sample"])


def test_any_scatter_is_a_plane_whose_click_chooses_a_sample():
    app = AppTest.from_function(_many_dots, default_timeout=60).run()
    assert not app.exception
    data, parts = sent(app)
    assert parts["points"]["x"].size == 5_000
    left, bottom, right, top = data["home"]
    assert left < parts["points"]["x"].min() < parts["points"]["x"].max() < right
    assert bottom < parts["points"]["y"].min() < parts["points"]["y"].max() < top
    assert not data["equal"]
    assert not data["loops"]
    assert app.text[0].value == "7"


def test_what_a_browser_sends_is_checked():
    assert not latent_map._is_window([0, 0, "1", 1])
    assert not latent_map._is_window([0, 0, float("nan"), 1])
    assert not latent_map._is_window([0, 0, 0, 0])
    assert not latent_map._is_window({"left": 0})
    assert latent_map._is_window([0, 0, 1, 1.5])


def test_the_aggregate_of_many_is_of_a_part_and_says_how_many(monkeypatch, checkpoint):
    monkeypatch.setattr(all_codes, "COMPONENTS", 50)
    mu, sigma, count = all_codes.components(checkpoint("digits-2d"))
    assert (len(mu), len(sigma), count) == (50, 50, 50)
    whole = {tuple(row) for row in checkpoint("digits-2d").reference.mu}
    assert {tuple(row) for row in mu.numpy()} <= whole
