"""Every screen through the frame: one number on it equals one computed from the raw files."""

import csv
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from bench.walks import followed
from conftest import few_digits
from PIL import Image
from streamlit.testing.v1 import AppTest

import vae
from vae.elbo.gap.gap_split import best_gaussian
from vae.elbo.seen import see
from vae.figures.frame import error_text, plus_minus
from vae.model.likelihoods import facts_of
from vae.model.vae import VAE
from vae.training.commit import commit
from vae.ui.literal import frame_csv, literal
from vae.ui.walks.export import codes_csv

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "pages").glob("*.py"))
MODELS = ("digits-2d", "digits-10d", "digits-binary-2d")


@pytest.fixture(autouse=True)
def scanned_anew():
    """A folder that one test puts in the place of the models must not be seen by the next."""
    from vae.ui import access

    access.entries.clear()
    yield
    access.entries.clear()


def raw(model):
    """A checkpoint's manifest and reference, read without the product's own code."""
    folder = ROOT / "checkpoints" / model
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest, safetensors.numpy.load((folder / "reference.safetensors").read_bytes())


def kl_of(reference):
    mu, log_variance = reference["mu"], reference["log_variance"]
    return 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance)


def frame(**state):
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def screen(page, **state):
    app = frame(**state).switch_page(str(page)).run()
    assert not app.exception, app.exception[0].stack_trace
    return app


def text_of(app):
    """All HTML and captions of a screen, with typographic minus signs undone."""
    parts = [element.proto.body for element in app.get("html")]
    parts += [element.value for element in app.caption]
    return " ".join(parts).replace("\N{MINUS SIGN}", "-")


def shows(text, value):
    """Whether a number with four decimals equals a value, up to what machines may differ by."""
    return any(abs(float(one) - value) < 1e-3 for one in re.findall(r"-?\d+\.\d{4}", text))


def check_overview(model):
    _, reference = raw(model)
    expected = reference["elbo"][reference["split"] == 0].mean()
    shown = {
        metric.label: metric.value for metric in screen(page_named("overview"), model=model).metric
    }
    number = float(shown["ELBO"].replace("\N{MINUS SIGN}", "-").split()[0])
    assert number == pytest.approx(expected, abs=0.05)


def check_latent_map(model):
    _, reference = raw(model)
    expected = kl_of(reference)[23].sum()
    text = text_of(screen(page_named("latent_map"), model=model, sample=23))
    assert f"Sample 23 pays <b>{expected:.2f}</b> nats" in text


def check_traversals(model):
    _, reference = raw(model)
    means = kl_of(reference).mean(0)
    text = text_of(screen(page_named("traversals"), model=model))
    assert f"dimension {means.argmax() + 1}, costs <b>{means.max():.2f}</b> nats" in text


def check_sample_elbo(model):
    _, reference = raw(model)
    text = text_of(screen(page_named("sample_elbo"), model=model, sample=23))
    expected = reference["elbo"][23]
    assert shows(text, expected)
    assert "residual 0.0000" in text or "residual -0.0000" in text


def check_score_images(model):
    _, reference = raw(model)
    levels = reference["levels"][31, 0]
    app = frame(model=model).switch_page(str(page_named("score_images"))).run()
    app.file_uploader(key="upload").set_value(("digit.png", png(levels, 16), "image/png")).run()
    assert not app.exception
    expected = reference["elbo"][31]
    below = 100 * np.mean(reference["elbo"][reference["split"] == 1] < expected)
    text = text_of(app)
    assert re.search(rf"digit.png scores an ELBO of <b>{expected:.2f}</b>", text)
    assert f"higher than <b>{below:.1f}\u00a0%</b>" in text
    assert "What was done to the file" not in " ".join(one.value for one in app.markdown)


def check_derivation(model):
    _, reference = raw(model)
    text = text_of(screen(page_named("derivation"), model=model, sample=23))
    assert shows(text, kl_of(reference)[23].sum())
    assert shows(text, reference["elbo"][23])
    assert "does not hold" not in text
    lines = 9 if np.isfinite(reference["log_evidence"][23]) else 5
    assert f"<b>{lines}</b> of {lines} hold" in text
    assert text.count("allowed error") == lines


def check_kl_per_sample(model):
    _, reference = raw(model)
    kl = kl_of(reference).sum(-1)
    app = screen(page_named("kl_per_sample"), model=model, sample=23)
    assert f"Sample 23 pays <b>{kl[23]:.4f}</b> nats" in text_of(app)
    companies = re.findall(
        r"<th scope='row'>(?:alone|with|the same)[^<]*</th><td>([^<]+)</td>", text_of(app)
    )
    assert len(companies) == 4
    assert len(set(companies)) == 1
    assert float(companies[0]) == pytest.approx(kl[23], abs=1e-4)
    words = " ".join(one.value for one in app.markdown)
    assert f"Mean KL **{kl.mean():.3f}**" in words
    # Where log N is exceeded the misfit is an artefact, and says nothing of the prior's samples.
    assert ("like noise" in words) == (kl.mean() <= np.log(len(kl)))
    assert any("artefact" in one.value for one in app.warning) == ("like noise" not in words)
    assert "N = 1,098 training images" in text_of(app)
    title = facts_of(raw(model)[0]["model"]["likelihood"]).title
    assert f"−E log p(x|z) ({title}) in place of the snippet's error" in words


def check_bound(model):
    _, reference = raw(model)
    app = screen(page_named("bound"), model=model, sample=23)
    text = text_of(app)
    # A sentence speaks of costs, which are minus an ELBO or log p(x).
    assert f"<b>{-reference['elbo'][23]:.2f}</b>" in text
    evidence = reference["log_evidence"][23]
    if np.isfinite(evidence):
        assert f"<b>{-evidence:.2f}</b> nats" in text
        assert shows(text, evidence)
        assert "they **agree**" in text
    else:
        # The two ELBOs share their draws, so their difference is surer than either.
        loaded = vae.load(ROOT / "checkpoints" / model)
        best = best_gaussian(see(loaded.model, loaded.reference.levels[23:24]))
        words = " ".join(one.value for one in app.markdown)
        assert f"{plus_minus(float(best.gain_se[0]))} nats**, what this encoder loses" in words


def check_compare(model):
    _, reference = raw(model)
    validation = reference["split"] == 0
    app = screen(page_named("compare"), model=model, sample=23)
    expected = reference["elbo"][validation].mean()
    assert f"{model} needs <b>{-expected:.2f}</b>" in text_of(app)
    table = app.dataframe[0].value.set_index("model")
    kl = kl_of(reference)[validation].sum(-1).mean()
    # Three decimals are shown, and the terms add up as they stand there.
    assert table["rate, nats"][model] == pytest.approx(kl, abs=1e-3)
    terms = table["rate, nats"] + table["distortion, nats"]
    np.testing.assert_allclose(terms, -table["ELBO, nats"].round(3), atol=1e-9)


def train_screen(model, **status):
    """The screen beside a run that was interrupted at step 500, with that model's own history."""
    import shutil
    import tempfile

    from vae.ui import access

    status = {"phase": "interrupted", "pid": 0, "step": 500, "steps": 2000, "best_step": 400,
              "started": 1.0, "message": "", **status}  # fmt: skip
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(ROOT / "checkpoints" / model, Path(root) / model)
        run = Path(root) / "under-way" / ".run"
        run.mkdir(parents=True)
        (run / "status.json").write_text(json.dumps(status))
        history = (ROOT / "checkpoints" / model / "history.jsonl").read_text()
        (run / "history.jsonl").write_text(history)
        patch.setenv("ELBOSCOPE_CHECKPOINTS", root)
        access.entries.clear()
        return screen(page_named("train"), model=model)


def check_train(model):
    manifest, _ = raw(model)
    best = manifest["metrics"]["elbo"]
    app = train_screen(model, best_elbo=best)
    words = " ".join(one.value for one in app.markdown)
    shown = f"{best:,.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"Best validation ELBO so far: **{shown} nats**, at step 400" in words
    assert "was interrupted" in words
    assert app.code[0].value.startswith("python -m vae train digits-2d --out ")
    assert str(ROOT) not in app.code[0].value


def test_held_out_images_that_choose_nothing_are_said_to_choose_nothing():
    app = train_screen("digits-2d", best_elbo=-90.0, chooses=False)
    words = " ".join(one.value for one in [*app.markdown, *app.caption])
    assert "Validation ELBO: **\N{MINUS SIGN}90.00 nats**" in words
    assert "which choose nothing" in words and "Best" not in words


CHECKS = {
    "train": check_train,
    "compare": check_compare,
    "bound": check_bound,
    "kl_per_sample": check_kl_per_sample,
    "derivation": check_derivation,
    "overview": check_overview,
    "latent_map": check_latent_map,
    "traversals": check_traversals,
    "sample_elbo": check_sample_elbo,
    "score_images": check_score_images,
}


def page_named(name):
    return ROOT / "pages" / f"{name}.py"


def png(levels, most):
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.rint(levels / most * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_number_on_every_page(page, model):
    assert page.stem in CHECKS, f"{page.name} has no test of a number that it shows"
    CHECKS[page.stem](model)


# Those whose numbers are compared above open there; these differ from another by their weights.
ALIKE = {
    "digits-2d-beta-0.1",
    "digits-2d-beta-0.3",
    "digits-2d-beta-3",
    "mnist-burda",
    "sprites-10d-beta4",
}
SHIPPED = {manifest.parent.name for manifest in (ROOT / "checkpoints").glob("*/manifest.json")}


@pytest.mark.parametrize(
    "models", [SHIPPED - {*MODELS} - ALIKE, pytest.param(ALIKE, marks=pytest.mark.slow)],
    ids=["shipped", "alike"],
)  # fmt: skip
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_shipped_model_opens_on_every_page(page, models):
    for name in sorted(models):
        app = screen(page, model=name)
        assert len(app.title) == 1
        assert "elb-lead" in text_of(app)


@pytest.mark.parametrize("model", ["one", "colour", "equal", "classes"])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_opens_for_models_unlike_the_shipped_ones(page, model, odd_models, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(odd_models))
    app = screen(page, model=model, sample=3)
    assert len(app.title) == 1
    assert "elb-lead" in text_of(app)
    if model == "one":
        words = text_of(app) + " ".join(one.help or "" for one in app.metric)
        assert "two latent dimensions" not in words.replace("more than two latent", "")


def pictures(app):
    """The pictures of a screen as arrays of grey levels, with what is said of each."""
    import base64
    import io

    html = " ".join(element.proto.body for element in app.get("html"))
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)"', html)
    return [
        (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), alt) for data, alt in found
    ]


@pytest.mark.parametrize("page", ["overview", "latent_map", "sample_elbo"])
def test_originals_beside_a_binary_models_numbers_are_black_and_white(page):
    app = screen(page_named(page), model="digits-binary-2d", sample=12)
    originals = [
        (pixels, alt)
        for pixels, alt in pictures(app)
        if re.match(r"Sample \d+$|The chosen image", alt)
    ]
    for pixels, _ in originals:
        assert set(np.unique(pixels)) <= {0, 255}
    levels = raw("digits-binary-2d")[1]["levels"][12, 0]
    seen = next(pixels for pixels, alt in originals if alt.startswith("The chosen image"))
    assert np.array_equal(seen, 255 * (levels >= 8))


def test_a_sample_that_is_taken_away_keeps_its_greys():
    import io

    from vae.ui import access

    data = access.sample_png(access.checkpoint("digits-binary-2d"), 12)
    grey = np.asarray(Image.open(io.BytesIO(data)))
    levels = raw("digits-binary-2d")[1]["levels"][12, 0]
    assert np.array_equal(np.rint(grey / 255 * 16), levels)


def test_tables_keep_in_sight_what_matters():
    columns = list(screen(page_named("compare"), model="digits-2d").dataframe[0].value.columns)
    assert columns[0] == "model"
    assert next(k for k, name in enumerate(columns) if name.startswith("active")) < 5
    lens = screen(page_named("kl_per_sample"), model="digits-10d").dataframe[0]
    assert json.loads(lens.proto.columns)["Σ over D: its KL"]["pinned"]


def test_a_model_whose_images_no_other_has_is_not_called_the_best(odd_models, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(odd_models))
    text = text_of(screen(page_named("compare"), model="equal"))
    assert "There is no other model of the same images" in text
    assert "most cheaply" not in text


@pytest.mark.parametrize(
    ("address", "base", "missed"),
    [
        ("http://localhost:8501/", "", None),
        ("http://localhost:8501/latent_map?model=x", "", None),
        ("http://localhost:8501/no_such/", "", "no_such"),
        ("http://host/elbo/no%20such", "elbo", "no such"),
        ("http://host/elbo/latent_map", "/elbo/", None),
        ("http://host/elbo", "elbo", None),
        (None, "", None),
    ],
)
def test_an_address_of_no_screen_is_known_as_such(address, base, missed):
    from vae.ui.screens import unknown_screen

    assert unknown_screen(address, base, {"overview", "latent_map"}) == missed


def test_an_unknown_address_is_named_with_the_screens_that_there_are(monkeypatch):
    from streamlit.runtime.context import ContextProxy

    monkeypatch.setattr(ContextProxy, "url", "http://localhost:8501/latent-map")
    app = frame()
    assert not app.exception
    assert "There is no screen “latent-map”" in app.warning[0].value
    assert "Latent map" in app.warning[0].value


def test_switching_the_model_changes_the_score():
    """A cache that forgot the model in its key would go on showing the old model's numbers."""
    app = screen(page_named("sample_elbo"), model="digits-2d", sample=5)
    before = text_of(app)
    app.selectbox(key="model").set_value("digits-10d").run()
    expected = raw("digits-10d")[1]["elbo"][5]
    assert shows(text_of(app), expected)
    assert not shows(before, expected)


def test_two_samples_and_the_whole_table_on_request():
    app = screen(page_named("sample_elbo"), sample=5)
    assert not app.dataframe or "percentile" not in app.dataframe[0].value
    app.toggle(key="compare").set_value(True)
    app.toggle(key="all_samples").set_value(True).run()
    assert not app.exception
    reference = raw("digits-2d")[1]
    table = next(one.value for one in app.dataframe if "percentile" in one.value)
    np.testing.assert_allclose(table["ELBO, nats"], reference["elbo"], atol=1e-6)
    gap = abs(reference["elbo"][5] - reference["elbo"][1])
    assert any(f"{gap:.2f} nats" in one.value for one in app.markdown)


def test_stepping_through_samples_goes_round():
    app = screen(page_named("sample_elbo"), sample=0)
    button = {one.label: one for one in app.button}
    button["Previous"].click().run()
    assert app.number_input(key="sample").value == raw("digits-2d")[1]["elbo"].size - 1
    {one.label: one for one in app.button}["Next"].click().run()
    assert app.number_input(key="sample").value == 0


def test_a_smaller_model_takes_its_last_sample():
    app = screen(page_named("latent_map"), model="sprites-10d", sample=1_500)
    app.selectbox(key="model").set_value("digits-2d").run()
    assert not app.exception
    assert app.number_input(key="sample").value == raw("digits-2d")[1]["elbo"].size - 1


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"model": "../../etc/passwd"}, "names a model"),
        ({"model": "no-such-model"}, "names a model"),
        ({"sample": "99999"}, "names a sample"),
        ({"sample": "-1"}, "names a sample"),
        ({"sample": "NaN"}, "names a sample"),
        ({"sample": "1e400"}, "names a sample"),
        ({"sample": "9" * 5_000}, "names a sample"),
    ],
)
def test_a_bad_link_is_named_and_the_default_shown(query, sentence):
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    assert [sentence in one.value for one in app.warning] == [True]
    assert app.selectbox(key="model").value == "digits-2d"
    assert len(app.warning[0].value) < 400


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("text.png", b"not an image", "E-IMG-03"),
        ("empty.png", b"", "E-IMG-01"),
        ("cut.png", None, "E-IMG-05"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "E-IMG-04"),
    ],
)
def test_a_bad_file_is_refused_beside_a_good_one(name, data, code):
    levels = raw("digits-2d")[1]["levels"][7, 0]
    good = png(levels, 16)
    data = good[: len(good) // 2] if data is None else data
    app = frame().switch_page(str(page_named("score_images"))).run()
    app.file_uploader(key="upload").set_value(
        [(name, data, "image/png"), ("../../good.png", good, "image/png")]
    ).run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table["name"]) == ["good.png", name]
    assert code in table["refused because"].iloc[1]
    assert table["ELBO, nats"].iloc[0] == pytest.approx(raw("digits-2d")[1]["elbo"][7], abs=1e-4)


def scored_screen(*files, **state):
    app = frame(**state).switch_page(str(page_named("score_images"))).run()
    app.file_uploader(key="upload").set_value(
        [(name, data, "image/png") for name, data in files]
    ).run()
    assert not app.exception
    return app


@pytest.mark.parametrize(("model", "evidence"), [("digits-2d", 1), ("digits-10d", 0)])
def test_an_upload_is_observed_encoded_and_scored_once(model, evidence, monkeypatch):
    # Upside down: none of the model's own images, which the screen shows as well.
    levels = raw(model)[1]["levels"][41, 0, ::-1]
    app = frame(model=model).switch_page(str(page_named("score_images"))).run()
    uploader = app.file_uploader(key="upload")
    batches, observe = [], VAE.observe

    def noted(self, levels, seed=0):
        batches.append(levels)
        return observe(self, levels, seed)

    monkeypatch.setattr(VAE, "observe", noted)
    with followed() as walk:
        uploader.set_value(("digit.png", png(levels, 16), "image/png")).run()
    assert not app.exception and "digit.png scores" in text_of(app)
    assert sum((batch == levels).all((1, 2, 3)).sum() for batch in batches) == 1
    once = ("encoded", "ELBO computed", "log p(x) computed")
    assert [walk.counts[name] for name in once] == [1, 1, evidence]


def test_a_sample_is_observed_and_encoded_once_for_all_screens_about_it():
    with followed() as walk:
        for name in ("sample_elbo", "derivation", "bound"):
            screen(page_named(name), model="digits-2d", sample=57)
    once = ("encoded", "ELBO computed", "log p(x) computed")
    assert [walk.counts[name] for name in once] == [1, 1, 1]


def noise_png():
    return png(np.random.default_rng(0).integers(0, 17, (8, 8)), 16)


def markdown_of(app):
    parts = [one.value for one in app.markdown] + [one.value for one in app.error]
    return " ".join(parts).replace("\N{MINUS SIGN}", "-").replace("\u00a0", " ")


def test_the_false_alarm_slider_sets_the_threshold_and_states_its_interval():
    """Against SciPy's beta distribution and the raw scores, at two rates."""
    from scipy.stats import beta

    _, reference = raw("digits-2d")
    elbo = np.sort(reference["elbo"][reference["split"] == 1])
    row = int(np.flatnonzero(np.isclose(reference["elbo"], elbo[9]))[0])
    app = scored_screen(("ten.png", png(reference["levels"][row, 0], 16)))
    for percent, box in ((1.0, "success"), (3.0, "error")):
        app.slider(key="alarms").set_value(percent).run()
        rank = round(percent / 100 * 500)
        low, high = 100 * beta.ppf([0.025, 0.975], rank, 500 - rank)
        text = markdown_of(app)
        assert f"{percent:.1f} % of normal images: between {low:.1f} and {high:.1f} %" in text
        assert f"**{elbo[rank - 1]:.2f} nats**, number {rank} from below of 499" in text
        assert "smallest rate that 499 images support is 0.2 %" in text
        assert f"at most {2 * percent:.1f} % of normal images are flagged or doubtful" in text
        assert ("It is flagged" if percent == 3 else "It passes") in getattr(app, box)[0].value


def test_a_rate_that_so_few_images_cannot_support_is_named():
    app = screen(page_named("score_images"))
    app.slider(key="alarms").set_value(0.1).run()
    text = markdown_of(app)
    assert "support no rate of 0.1 %" in text
    assert "number 1 from below" in text


@pytest.mark.parametrize("asked", ["1e400", "NaN", "-1", "999999999", "x" * 1_000])
def test_a_rate_in_a_link_that_is_none_is_named(asked):
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    app.query_params["alarms"] = asked
    app.run().switch_page(str(page_named("score_images"))).run()
    assert not app.exception
    assert app.slider(key="alarms").value == 1.0
    assert any("rate" in one.value and len(one.value) < 200 for one in app.warning)


def test_noise_is_flagged_and_every_opinion_agrees():
    app = scored_screen(("noise.png", noise_png()))
    assert "Unlike the images this model knows" in app.error[0].value
    assert "It is flagged" in app.error[0].value
    assert "higher than <b>none</b> of the 499 calibration images" in text_of(app)
    assert "log p(x) agrees" in markdown_of(app)
    assert text_of(app).count("0.002, strange") >= 3


def test_what_would_make_it_pass_passes():
    app = scored_screen(("noise.png", noise_png()))
    app.toggle(key="pass").set_value(True).run()
    assert not app.exception
    _, reference = raw("digits-2d")
    threshold = np.sort(reference["elbo"][reference["split"] == 1])[4]
    shown = re.search(r"Passes: ELBO (-[\d.]+) nats", text_of(app))
    assert float(shown[1]) > threshold
    assert "no repair of the one you sent" in markdown_of(app)


def test_the_bound_is_refined_on_request():
    _, reference = raw("digits-10d")
    sent = ("one.png", png(reference["levels"][4, 0], 16))
    app = scored_screen(sent, model="digits-10d")
    app.button(key="refine").click().run()
    assert not app.exception
    found = re.search(r"\*\*(-[\d.]+) ± ([\d.]+) nats\*\* from ([\d,]+) draws", markdown_of(app))
    value, error, draws = float(found[1]), float(found[2]), int(found[3].replace(",", ""))
    assert error <= 0.1 or draws == 200_000
    assert value > reference["elbo"][4]
    assert abs(value - reference["iwae_bound"][4]) < 3


def test_the_same_bytes_under_two_names_are_two_rows_with_one_score():
    levels = raw("digits-2d")[1]["levels"]
    files = [(f"{n}.png", png(levels[n % 10, 0], 16)) for n in range(20)]
    table = scored_screen(*files).dataframe[0].value
    assert sorted(table["name"]) == sorted(name for name, _ in files)
    assert list(table["ELBO, nats"]) == sorted(table["ELBO, nats"])
    score = dict(zip(table["name"], table["ELBO, nats"], strict=True))
    for n in range(10):
        assert score[f"{n}.png"] == score[f"{n + 10}.png"]
        expected = raw("digits-2d")[1]["elbo"][n]
        assert score[f"{n}.png"] == pytest.approx(expected, abs=1e-4)


def test_the_calls_to_copy_give_the_same_rows(capsys, tmp_path, monkeypatch):
    """The command shown is run as it stands, but for the path."""
    import shlex

    from vae.cli.main import main

    (tmp_path / "noise.png").write_bytes(noise_png())
    app = scored_screen(("noise.png", noise_png()), model="digits-10d")
    app.number_input(key="score_seed").set_value(3)
    app.number_input(key="draws").set_value(16)
    app.selectbox(key="k").set_value(100)
    app.selectbox(key="fit").set_value("squash")
    app.selectbox(key="invert").set_value("yes").run()
    command, curl = (one.value for one in app.code)
    words = shlex.split(command.replace("PATH", str(tmp_path / "noise.png")))
    monkeypatch.chdir(ROOT)
    assert main(words[3:]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert shows(text_of(app), row["elbo"])
    assert "-F file=@noise.png" in curl
    for word in ("model=digits-10d", "seed=3", "draws=16", "importance_samples=100", "invert=yes",
                 "fit=squash"):  # fmt: skip
        assert word in curl


def test_a_named_calibration_set_can_be_chosen(monkeypatch, tmp_path):
    import shutil

    from vae.data.images.adaptation import Adaptation
    from vae.scoring.calibration_sets import write_calibration
    from vae.store.checkpoint import load

    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "digits-2d")
    model = load(tmp_path / "digits-2d")
    write_calibration(
        model, "strict", np.linspace(-40, -30, 99), draws=0, seed=0, adaptation=Adaptation()
    )
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = scored_screen(("seven.png", png(raw("digits-2d")[1]["levels"][31, 0], 16)))
    assert "It passes" in app.success[0].value
    app.selectbox(key="calibration").set_value("strict").run()
    assert not app.exception
    assert "It is flagged" in app.error[0].value
    # A visit of another screen changes neither the image nor what it is compared with.
    app.switch_page(str(page_named("overview"))).run()
    app.switch_page(str(page_named("score_images"))).run()
    assert app.selectbox(key="calibration").value == "strict"
    assert "It is flagged" in app.error[0].value
    assert "seven.png scores" in text_of(app)
    assert "higher than <b>none</b> of the 99 images of the set “strict”" in text_of(app)
    assert "smallest rate that 99 images support is 1.0 %" in markdown_of(app)
    assert "chosen set holds scores only" in text_of(app)


def test_a_calibration_set_of_a_link_that_is_not_there_is_named():
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    app.query_params["calibration"] = "good-<b>ones"
    app.run().switch_page(str(page_named("score_images"))).run()
    assert not app.exception
    (said,) = [one.value for one in app.warning]
    assert "no calibration set" in said and "calibration images" in said and "none" in said
    assert "<b>" not in said


def test_what_was_sent_stays_while_another_screen_is_visited():
    levels = raw("digits-2d")[1]["levels"]
    files = [(f"{n}.png", png(levels[n, 0], 16)) for n in range(3)]
    app = scored_screen(*files[:2])
    app.selectbox(key="invert").set_value("yes").run()
    before = app.dataframe[0].value

    def revisit():
        app.switch_page(str(page_named("overview"))).run()
        app.switch_page(str(page_named("score_images"))).run()
        assert not app.exception

    revisit()
    assert app.selectbox(key="invert").value == "yes"
    assert app.dataframe[0].value.equals(before)
    # What comes later is scored beside it, and what is taken out stays out.
    app.file_uploader(key="upload").set_value((*files[2], "image/png")).run()
    assert sorted(app.dataframe[0].value["name"]) == ["0.png", "1.png", "2.png"]
    app.multiselect(key="upload_stay").set_value([1]).run()
    assert sorted(app.dataframe[0].value["name"]) == ["1.png", "2.png"]
    revisit()
    assert sorted(app.dataframe[0].value["name"]) == ["1.png", "2.png"]
    app.multiselect(key="upload_stay").set_value([]).run()
    assert not app.exception
    assert "No file yet" in text_of(app)


def test_an_image_that_scores_above_all_others_is_said_to():
    """A blank sprite: never "higher than 100.0 %", and flagged by what is too easy."""
    app = scored_screen(("blank.png", png(np.zeros((64, 64), int), 1)), model="sprites-10d")
    assert "higher than <b>all</b> 999 calibration images" in text_of(app)
    assert "Suspiciously easy" in app.warning[0].value
    assert "±\u00a00.0" not in text_of(app)


@pytest.mark.parametrize("model", ["digits-2d", "digits-10d"])
def test_an_elbo_stands_with_what_it_may_be_off(model):
    """By quadrature its numerical error, which is never 0; else its standard error."""
    loaded = vae.load(ROOT / "checkpoints" / model)
    levels = loaded.reference.levels[:2]
    app = scored_screen(*((f"{k}.png", png(levels[k, 0], 16)) for k in range(2)), model=model)
    rows = {
        row.name: row
        for row in vae.score(loaded, loaded.config.image.from_levels(levels), evidence=False)
    }
    table = app.dataframe[0].value
    for name, shown in zip(table["name"], table["±, nats"], strict=True):
        assert shown == error_text(rows[name.removesuffix(".png")].elbo_uncertainty, 4) != ""
    first = rows[table["name"].iloc[0].removesuffix(".png")]
    assert f"</b>{plus_minus(first.elbo_uncertainty)} nats, higher than" in text_of(app)


def test_only_refused_files_say_so():
    app = frame().switch_page(str(page_named("score_images"))).run()
    app.file_uploader(key="upload").set_value(("x.png", b"junk", "image/png")).run()
    assert not app.exception
    assert "E-IMG-03" in app.error[0].value


def test_without_checkpoints_the_page_says_what_to_do(monkeypatch, tmp_path):

    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = frame()
    assert not app.exception
    assert "train digits-2d --out FOLDER/digits-2d" in app.warning[0].value


def test_a_damaged_checkpoint_is_listed_and_the_others_work(monkeypatch, tmp_path):
    import shutil

    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "digits-2d")
    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "flipped")
    weights = tmp_path / "flipped" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = frame()
    assert not app.exception
    assert any("broken cannot be opened" in one.value for one in app.caption)
    app.selectbox(key="model").set_value("flipped").run()
    assert not app.exception
    assert "E-CKPT-03" in app.error[0].value


def test_a_gaussian_that_may_tilt_lies_between_the_best_of_its_kind_and_the_truth():
    app = screen(page_named("bound"), model="digits-2d", sample=23)
    app.toggle(key="tilted").set_value(True).run()
    assert not app.exception
    words = markdown_of(app).replace("\N{MINUS SIGN}", "-")
    (wins, whole), *_ = re.findall(r"wins back \*\*(-?[\d.]+)\*\* of the (-?[\d.]+) nats", words)
    assert -1e-3 <= float(wins) <= float(whole) + 1e-3


@pytest.mark.parametrize("likelihood", ["bernoulli_grey", "discretized_logistic"])
def test_every_screen_says_what_its_numbers_are(monkeypatch, tmp_path, likelihood):
    import shutil

    from vae.training.commit import commit
    from vae.training.config import TrainConfig
    from vae.training.fit import fit

    config = TrainConfig(hidden=(8,), steps=4, batch_size=8, likelihood=likelihood,
                         importance_samples=0)  # fmt: skip
    data = few_digits()
    fitted = fit(config, data, progress=False)
    commit(tmp_path / "mine", config, data, fitted, "python -m vae", progress=False)
    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "digits-2d")
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    for name in ("overview", "sample_elbo", "bound"):
        text = text_of(screen(page_named(name), model="mine"))
        assert "nats: low costs are good, high ELBOs are good" in text
        grey = "Not a density, so its “ELBO” bounds no log p(x). The model digits-2d has a"
        assert (grey in text) == (likelihood == "bernoulli_grey")


def test_files_and_copies_of_a_folder_are_said(monkeypatch, tmp_path):
    from vae.data.sets.datasets import open_data
    from vae.data.sets.image_data import copies_of
    from vae.training.commit import commit
    from vae.training.config import TrainConfig
    from vae.training.fit import fit

    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(30):
        image = Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8))
        for kind in ("cats", "<b>dogs"):
            (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "photos" / kind / f"{number:02}.png")
    config = TrainConfig(data=f"folder:{tmp_path / 'photos'}", image_size=8, image_channels=1,
                         hidden=(8,), steps=4, batch_size=8, importance_samples=0)  # fmt: skip
    data = open_data(config.data, 8, 1)
    fitted = fit(config, data, progress=False)
    commit(tmp_path / "models" / "mine", config, data, fitted, "python -m vae", progress=False)
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path / "models"))
    app = screen(page_named("sample_elbo"), model="mine", sample=3)
    app.toggle(key="all_samples").set_value(True).run()
    assert not app.exception
    names = sorted(str(file.relative_to(tmp_path / "photos"))
                   for file in (tmp_path / "photos").rglob("*.png"))  # fmt: skip
    table = next(one.value for one in app.dataframe if "file" in one.value)
    held_out = [*data.splits.validation, *data.splits.calibration]
    assert table["index"].tolist() == held_out
    assert table["file"].tolist() == [names[i] for i in held_out]
    text = text_of(app)
    assert f"a validation image, {html.escape(names[held_out[3]])}" in text
    assert str(tmp_path) not in text
    validation, calibration, _ = copies_of(data)
    assert calibration and f"{validation + calibration} of 21 held-out images are copies" in text


def test_a_wrong_run_is_said_before_it_starts(monkeypatch, tmp_path):
    import shutil

    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "digits-2d")
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = screen(page_named("train"))
    start = [one for one in app.button if one.key == "start"][0]
    assert not start.disabled
    app.text_input(key="name-digits-2d").set_value("digits-2d").run()
    assert "There is a model or a run named digits-2d already" in app.warning[0].value
    assert [one for one in app.button if one.key == "start"][0].disabled
    app.text_input(key="name-digits-2d").set_value("mine").run()
    app.selectbox(key="objective-digits-2d").set_value("beta").run()
    app.number_input(key="beta-digits-2d").set_value(4.0).run()
    assert not app.exception and not app.warning
    assert "--objective beta --beta 4.0" in app.code[0].value
    app.selectbox(key="network-digits-2d").set_value("conv").run()
    assert not app.exception


@pytest.mark.parametrize(
    ("address", "hosts", "allowed"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "::1"], True),
        ("0.0.0.0", ["localhost"], False),
        ("127.0.0.1", ["elboscope.example.org"], False),
        ("127.0.0.1", [], False),
        ("", ["localhost"], False),
    ],
)
def test_training_is_offered_on_this_computer_alone(monkeypatch, address, hosts, allowed):
    from vae.ui import train_gate

    options = {"server.address": address, "server.allowedHosts": hosts}
    monkeypatch.setattr(train_gate.st, "get_option", options.get)
    assert train_gate.training_allowed() == allowed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_does_without_images_that_are_not_here(page, monkeypatch, tmp_path):
    monkeypatch.setenv("ELBOSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    app = screen(page, model="mnist-burda", sample=3)
    if page.stem in ("sample_elbo", "bound", "derivation"):
        assert "(mnist) are not on this machine" in app.info[0].value
        assert [one.label for one in app.button if one.key == "download_images"] == [
            "Download MNIST (12 MB)"
        ]
    if page.stem == "derivation":
        # The closed form needs the code alone; the losses and the errata not even that.
        text = text_of(app)
        assert "<b>3</b> of 3 hold" in text and shows(text, kl_of(raw("mnist-burda")[1])[3].sum())
        assert "In place of the image" in text
        assert app.slider(key="beta_dial").value == 1 and len(app.table[0].value) == 13
    if page.stem == "sample_elbo":
        elbo = raw("mnist-burda")[1]["elbo"][3]
        assert f"costs <b>{-elbo:.1f}</b>" in text_of(app)


def test_the_bound_says_where_its_two_forms_do_not_agree(monkeypatch):
    from vae.elbo.evidence import quadrature

    original = quadrature.log_sum_exp
    monkeypatch.setattr(quadrature, "log_sum_exp", lambda values: original(values) + 0.01)
    # A sample that no other test has in the cache.
    text = text_of(screen(page_named("bound"), model="digits-2d", sample=601))
    assert "they **do not agree**" in text and "they **agree**" not in text


def test_the_penalty_on_a_batch_moves_with_sigma():
    app = screen(page_named("kl_per_sample"), model="digits-2d")
    told = []
    for sigma in (0.05, 0.4, 0.95):
        app.slider(key="misconception").set_value(sigma).run()
        words = " ".join(one.value for one in app.markdown)
        told.append(float(re.search(r"batches of 8 [a-z ]+\*\*([\d.]+) nats", words)[1]))
        assert "1/8" not in words
    # By simulation, 400,000 batches a width.
    assert told == pytest.approx([0.141, 0.102, 0.007], abs=0.001)


@pytest.mark.parametrize(("model", "cores"), [("digits-2d", 1), ("sprites-10d", 2)])
def test_a_small_model_leaves_a_core_to_others(model, cores, monkeypatch):
    import torch

    from vae.ui import access

    monkeypatch.setattr(access, "_CORES", 2)
    before = torch.get_num_threads()
    try:
        access.checkpoint(model)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "train"], ids=lambda page: page.stem
)
def test_no_page_tells_where_things_lie_on_the_servers_disk(page, monkeypatch, tmp_path):
    import shutil

    from vae.ui import train_gate

    root = tmp_path / "secret" / "checkpoints"
    for name in ("mine", "broken"):
        shutil.copytree(ROOT / "checkpoints" / "digits-2d", root / name)
    manifest, _ = raw("digits-2d")
    manifest["data"]["name"] = f"folder:{tmp_path / 'secret' / 'cats'}"
    manifest["command"] = f"/usr/bin/python -m vae train --data {manifest['data']['name']}"
    manifest["command"] += f" --title '2 cats' --out {root / 'mine'} --tensorboard secret/logs"
    (root / "mine" / "manifest.json").write_text(json.dumps(manifest))
    (root / "broken" / "manifest.json").unlink()
    (root / "broken" / "manifest.json").symlink_to(root / "nowhere")
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(root))
    monkeypatch.setenv("ELBOSCOPE_FOLDERS", json.dumps([str(root)]))
    monkeypatch.setattr(train_gate, "training_allowed", lambda: False)  # a published server
    app = screen(page, model="mine")
    sent = " ".join(str(getattr(node, "proto", "")) for node in app._tree)
    assert "broken" in sent and "folder cats" in sent
    assert "secret" not in sent and str(ROOT) not in sent
    if page.stem == "overview":
        assert [one.value for one in app.code] == [
            "PATH -m vae train --data folder:PATH --title '2 cats' --out checkpoints/mine "
            "--tensorboard PATH"
        ]


def test_folders_to_train_on_stay_apart(monkeypatch, tmp_path):
    from vae.ui.models.train import registered_folders
    from vae.ui.server.serve import folders_variable

    folders = [tmp_path / name for name in ("a/images", "b/images", "c/scan 06:12")]
    for folder in folders:
        folder.mkdir(parents=True)
    gone = tmp_path / "gone"
    monkeypatch.setenv("ELBOSCOPE_FOLDERS", folders_variable([*folders, folders[0], gone]))
    assert registered_folders() == {
        "folder a/images": f"folder:{folders[0]}",
        "folder b/images": f"folder:{folders[1]}",
        "folder scan 06:12": f"folder:{folders[2]}",
    }
    monkeypatch.delenv("ELBOSCOPE_FOLDERS")
    assert registered_folders() == {}


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A model of a folder, on a server whose home cannot be written."""
    from vae.data.sets.datasets import open_data
    from vae.training.commit import commit
    from vae.training.config import TrainConfig
    from vae.training.fit import fit

    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for number in range(60):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(np.full((8, 8), number), 64))
    config = TrainConfig(
        data=f"folder:{tmp_path / 'photos'}", image_size=8, image_channels=1, hidden=(8,),
        steps=4, batch_size=8, importance_samples=0,
    )  # fmt: skip
    data = open_data(config.data, 8, 1)
    fitted = fit(config, data, progress=False)
    commit(tmp_path / "models" / "mine", config, data, fitted, "python -m vae", progress=False)
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path / "models"))
    monkeypatch.delenv("ELBOSCOPE_CACHE")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    return "mine"


@pytest.mark.parametrize("name", ["sample_elbo", "bound", "derivation", "kl_per_sample"])
def test_a_cache_that_cannot_be_written_is_said(homeless, name):
    app = screen(page_named(name), model=homeless)
    assert "cannot be written: let ELBOSCOPE_CACHE name another folder." in app.info[0].value
    said = " ".join(one.value for one in [*app.info, *app.caption])
    assert "not on this machine" not in said and str(ROOT) not in said


def test_a_run_that_cannot_start_says_why(homeless):
    from vae.training.run import launch

    app = screen(page_named("train"), model=homeless)
    next(one for one in app.button if one.key == "start").click().run()
    assert not app.exception
    (error,) = app.error
    assert literal("my-digits-2d-1 cannot start") in error.value
    assert literal("ELBOSCOPE_CACHE") in error.value
    assert launch.last_words("my-digits-2d-1") == ""


@pytest.mark.parametrize("place", ["usual", "within", "elsewhere", "relative"])
def test_the_command_of_a_run_works_in_the_projects_folder(monkeypatch, tmp_path, place):
    import shutil

    from vae.ui.models import train

    roots = {"usual": ROOT / "checkpoints", "within": ROOT / "ck", "elsewhere": tmp_path / "ck",
             "relative": Path("ck")}  # fmt: skip
    monkeypatch.chdir(tmp_path if place == "relative" else ROOT)
    root = roots[place]
    shown = train._shown_path(root, "my-model")
    assert (ROOT / shown).resolve() == (root / "my-model").resolve()
    assert shown.is_absolute() == (place in ("elsewhere", "relative"))
    if place == "elsewhere":
        shutil.copytree(ROOT / "checkpoints" / "digits-2d", root / "digits-2d")
        monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(root))
        command = screen(page_named("train")).code[0].value
        assert command.endswith(f"--out {root / 'my-digits-2d-1'}")


def test_many_files_cost_no_exact_evidence_unless_asked(monkeypatch):
    from vae.ui.scoring import batches

    asked = []
    original = batches.score_bytes

    def counted(model, named, settings):
        asked.append((len(named), settings.evidence))
        return original(model, named, settings)

    monkeypatch.setattr(batches, "score_bytes", counted)
    _, reference = raw("digits-2d")
    files = [(f"{n}.png", png(reference["levels"][n, 0], 16)) for n in (40, 41)]
    app = scored_screen(*files)
    assert asked == [(2, False)]
    # The chosen one, the most surprising, has it all the same.
    chosen = min((40, 41), key=lambda n: reference["elbo"][n])
    assert shows(text_of(app), reference["log_evidence"][chosen])
    assert "--no-evidence" in app.code[0].value and "evidence=1" not in app.code[1].value
    app.toggle(key="every_evidence").set_value(True).run()
    assert not app.exception
    assert asked[1:] == [(1, True), (1, True)]
    assert "--no-evidence" not in app.code[0].value and "evidence=1" in app.code[1].value


# What a screen might obey instead of show: HTML, Markdown, TeX, Streamlit's own directives.
WICKED = ("<unk>", "$a$ and $b$", "*b*", "[d](http://evil.example)", "=1+1", ":red[x]", "a->b",
          "area<border & more", "`c`", "www.evil.example")  # fmt: skip
TITLE, ABOUT, FOLDER = "$x^2$ <i>t</i>", "area<border & <u>more</u> *d*", "f<b>o *l* $d$"
NAMES = ("m<i>x", "n [y](www.evil.example) $z$")


@pytest.fixture(scope="module")
def wicked(tmp_path_factory, tiny):
    """Two models of the same images, every text of which a screen might obey."""
    root = tmp_path_factory.mktemp("wicked")
    data = replace(tiny.data, label_names=WICKED, name=f"folder:/tmp/{FOLDER}")
    for name in NAMES:
        config = replace(tiny.config, title=TITLE, description=ABOUT)
        commit(root / name, config, data, tiny.fitted, "python -m vae train", progress=False)
    return root


def obeyed(app):
    """Texts of a screen that stand there as something else than themselves."""
    kinds = ("title", "subheader", "caption", "markdown", "info", "warning", "error", "success")
    for element in (one for kind in kinds for one in getattr(app, kind)):
        for text in (*WICKED, TITLE, ABOUT, FOLDER, *NAMES):
            if text in element.value and re.sub(r"[\w ]", "", text):
                yield element.value
    for element in app.get("html"):
        body = element.proto.body
        if re.search(r"<(unk|border|u>|i>|b>(o|more))", body):
            yield body
    for element in app.get("plotly_chart"):
        if re.search(r"<unk>|<border|<i>x", element.proto.spec):
            yield element.proto.spec


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_texts_of_users_are_shown_and_never_obeyed(page, wicked, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(wicked))
    app = screen(page, model=NAMES[0], sample=3, walk="Arithmetic")
    for toggle in app.toggle:
        toggle.set_value(True)
    app = app.run()
    assert not app.exception, app.exception[0].stack_trace
    assert list(obeyed(app)) == []
    seen = json.dumps([text_of(app), *(one.value for one in app.title)])
    if page.stem == "traversals":
        assert "The mean codes of “&lt;unk&gt;”" in text_of(app)
    if page.stem == "overview":
        assert "\\\\$x\\\\^2\\\\$" in seen and "area&lt;border &amp; &lt;u&gt;more" in seen


def test_a_link_cannot_put_markdown_on_a_screen(wicked, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(wicked))
    app = AppTest.from_file(str(ROOT / "vae" / "ui" / "frame.py"), default_timeout=60)
    app.query_params["model"] = "[here](http://evil.example)"
    app.run()
    (warning,) = app.warning
    assert "here" in warning.value and "](" not in warning.value
    assert literal(NAMES[0]) in warning.value


def test_a_literal_text_keeps_every_letter():
    for text in (*WICKED, TITLE, ABOUT, FOLDER, *NAMES, "a\\b", "-- >= <-> ~~x~~", "1. x", "# h"):
        shown = re.sub(r"\\(.)", r"\1", literal(text)).replace("\N{WORD JOINER}", "")
        assert shown == text
    assert literal("two\n\n    lines") == "two lines"
    assert literal("plain words 12 äö") == "plain words 12 äö"


def test_no_table_of_a_screen_holds_a_formula(wicked, monkeypatch):
    from vae.ui import access
    from vae.ui.map import sections as map_sections

    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(wicked))
    model = access.checkpoint(NAMES[0])
    rows = np.arange(model.reference.size)
    frame = pd.DataFrame({"n": [1.5, -2.0], "model": ["=1+1", "-x"], "none": [None, "＝2"]})
    assert frame_csv(frame).decode() == "n,model,none\n1.5,'=1+1,\n-2.0,'-x,'＝2\n"
    assert literal(WICKED[3]) in map_sections._labels(model, model.reference.labels)
    tables = (
        map_sections._csv(model, access.table(model), rows),
        codes_csv(np.zeros((2, 2)), {"way": ["@SUM(1)", "+1"]}),
    )
    for table in tables:
        cells = [cell for row in csv.reader(io.StringIO(table.decode())) for cell in row]
        texts = [cell for cell in cells if not re.fullmatch(r"-?[\d.e-]+", cell)]
        assert texts and not [text for text in texts if text.startswith(("=", "+", "-", "@"))]


def test_what_holds_of_a_model_is_said_on_request():
    app = screen(page_named("overview"), model="digits-2d-beta-0.1")
    assert not any("checks do not hold" in one.value for one in app.markdown)
    app.toggle(key="check").set_value(True).run()
    assert any("2 of 9 checks do not hold" in one.value for one in app.markdown)
    text = text_of(app)
    assert "as if the KL had the weight 0.1" in text and "✗\u00a0does not\u00a0hold" in text
