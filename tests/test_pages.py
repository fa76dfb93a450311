"""Every screen through the frame: one number on it equals one computed from the raw files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from conftest import few_digits
from PIL import Image
from streamlit.testing.v1 import AppTest

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


def check_bound(model):
    _, reference = raw(model)
    text = text_of(screen(page_named("bound"), model=model, sample=23))
    assert f"<b>{reference['elbo'][23]:.2f}</b>" in text
    evidence = reference["log_evidence"][23]
    if np.isfinite(evidence):
        assert f"<b>{evidence:.2f}</b> nats" in text
        assert shows(text, evidence)


def check_compare(model):
    _, reference = raw(model)
    validation = reference["split"] == 0
    app = screen(page_named("compare"), model=model, sample=23)
    expected = reference["elbo"][validation].mean()
    assert f"{model} reaches <b>{expected:.2f}</b>" in text_of(app)
    table = app.dataframe[0].value.set_index("model")
    kl = kl_of(reference)[validation].sum(-1).mean()
    assert table["rate, nats"][model] == pytest.approx(kl, abs=1e-6)


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
    assert "Held-out ELBO: **\N{MINUS SIGN}90.00 nats**" in words
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_shipped_model_opens_on_every_page(page):
    for folder in sorted((ROOT / "checkpoints").iterdir()):
        if (folder / "manifest.json").exists():
            app = screen(page, model=folder.name)
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
    text = text_of(screen(page_named("compare"), model="one"))
    assert "There is no other model of the same images" in text
    assert "explains them best" not in text


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
    for percent, verdict in ((1.0, "passes"), (3.0, "flagged")):
        app.slider(key="alarms").set_value(percent).run()
        rank = round(percent / 100 * 500)
        low, high = 100 * beta.ppf([0.025, 0.975], rank, 500 - rank)
        text = markdown_of(app)
        assert f"{percent:.1f} % of normal images: between {low:.1f} and {high:.1f} %" in text
        assert f"**{elbo[rank - 1]:.2f} nats**, number {rank} from below of 499" in text
        assert "smallest rate that 499 images support is 0.2 %" in text
        assert f"<b>{verdict}</b>" in text_of(app)


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
    assert "<b>flagged</b>" in text_of(app)
    assert "Unlike the images this model knows" in app.error[0].value
    assert "log p(x) agrees" in app.error[0].value
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

    from vae.data.adaptation import Adaptation
    from vae.elbo.calibration_sets import write_calibration
    from vae.model.checkpoint import load

    shutil.copytree(ROOT / "checkpoints" / "digits-2d", tmp_path / "digits-2d")
    model = load(tmp_path / "digits-2d")
    write_calibration(
        model, "strict", np.linspace(-40, -30, 99), draws=0, seed=0, adaptation=Adaptation()
    )
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = scored_screen(("seven.png", png(raw("digits-2d")[1]["levels"][31, 0], 16)))
    assert "passes</b>" in text_of(app)
    app.selectbox(key="calibration-digits-2d").set_value("strict").run()
    assert not app.exception
    assert "<b>flagged</b>" in text_of(app)
    assert "smallest rate that 99 images support is 1.0 %" in markdown_of(app)
    assert "chosen set holds scores only" in text_of(app)


def test_only_refused_files_say_so():
    app = frame().switch_page(str(page_named("score_images"))).run()
    app.file_uploader(key="upload").set_value(("x.png", b"junk", "image/png")).run()
    assert not app.exception
    assert "E-IMG-03" in app.error[0].value


def test_without_checkpoints_the_page_says_what_to_do(monkeypatch, tmp_path):

    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    app = frame()
    assert not app.exception
    assert "make train-digits" in app.warning[0].value


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
        assert "nats, higher is better" in text
        grey = "Not a density, so its “ELBO” bounds no log p(x). The model digits-2d has a"
        assert (grey in text) == (likelihood == "bernoulli_grey")


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
    if page.stem == "sample_elbo":
        elbo = raw("mnist-burda")[1]["elbo"][3]
        assert f"costs <b>{-elbo:.1f}</b>" in text_of(app)


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
