"""What the screens say: sums add up, terms are defined, and each thing has one name."""

import ast
import re
from decimal import Decimal

import numpy as np
import pytest
from checkpoint_files import manifest_of
from hypothesis import given
from hypothesis import strategies as st
from test_pages import ROOT, page_named, raw, scanned_anew, screen, text_of

import vae
from vae.figures.frame import adding_up, nats
from vae.ui import access, words

__all__ = ["scanned_anew"]

NUMBERS = st.floats(-1e6, 1e6)
MODELS = sorted(path.parent.name for path in (ROOT / "checkpoints").glob("*/manifest.json"))


def number(text):
    return Decimal(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def bold(app):
    """The bold numbers of a screen's first sentence, as they stand there."""
    bodies = [one.proto.body for one in app.get("html")]
    (lead,) = (body for body in bodies if body.startswith('<p class="elb-lead"'))
    return [number(text) for text in re.findall(r"<b>([^<%]*)</b>", lead)]


def said(app):
    """All that a screen says, with the help of its tiles."""
    parts = [text_of(app)]
    parts += [one.value for kind in (app.markdown, app.warning, app.info) for one in kind]
    parts += [f"{one.label} {one.value} {one.delta} {one.help}" for one in app.metric]
    return " ".join(parts)


@given(st.lists(NUMBERS, min_size=1, max_size=12), st.integers(0, 4))
def test_rounded_parts_add_up_to_their_rounded_whole(parts, digits):
    shown = [number(nats(part, digits)) for part in adding_up(parts, digits)]
    whole = float(np.sum(np.array(parts, np.longdouble)))
    unit = Decimal(1).scaleb(-digits)
    assert abs(sum(shown) - number(nats(whole, digits))) <= (
        0 if _decided(whole, digits) else unit
    )
    for one, part in zip(shown, parts, strict=True):
        assert abs(one - Decimal(part)) <= unit * Decimal("1.001")


def _decided(value, digits):
    """Whether a value lies clearly to one side of the middle between two shown ones."""
    return abs(abs(value) * 10**digits % 1 - 0.5) > 1e-6


@given(NUMBERS, st.lists(NUMBERS, min_size=2, max_size=3))
def test_parts_add_up_to_a_whole_that_stands_there_already(whole, parts):
    shown = [number(nats(part, 2)) for part in adding_up(parts, 2, whole)]
    assert abs(sum(shown) - number(nats(whole, 2))) == 0


def test_a_sum_without_an_end_is_left_alone():
    assert adding_up((1.26, float("-inf"))) == (1.3, float("-inf"))


def test_what_is_bold_on_overview_adds_up():
    """5.292 + 88.157 = 93.448 read as 5.3 + 88.2 = 93.4."""
    whole, *parts = bold(screen(page_named("overview"), model="digits-2d"))
    assert whole == sum(parts) == Decimal("93.4")


def test_what_is_bold_on_the_other_screens_adds_up():
    _, reference = raw("digits-2d")
    likelihood = reference["expected_log_likelihood"]
    terms = np.stack((-likelihood, likelihood - reference["elbo"]))
    # A sample whose parts, each rounded by itself, do not add up.
    wrong = np.round(terms, 1).sum(0) - np.round(terms.sum(0), 1)
    sample = int(np.flatnonzero(np.abs(wrong) > 0.05)[0])
    app = screen(page_named("sample_elbo"), model="digits-2d", sample=sample)
    whole, *parts = bold(app)
    assert whole == sum(parts)
    table = next(one.proto.body for one in app.get("html") if "elb-sums" in one.proto.body)
    likelihood, kl, elbo = (number(one) for one in re.findall(r"<td>(−?[\d.]+)", table)[:3])
    assert likelihood - kl == elbo
    cost, truth, gap, *parts = bold(screen(page_named("bound"), model="digits-2d", sample=sample))
    assert cost - truth == gap == sum(parts)
    app = screen(page_named("compare"), model="digits-2d", sample=sample)
    assert bold(app)[1] == sum(bold(app)[2:])
    ladder = next(one.value for one in app.markdown if "distortion **" in one.value)
    rate, distortion, cost = (number(one) for one in re.findall(r"\*\*([\d.]+)", ladder)[-3:])
    assert rate + distortion == cost
    beside = next(one.value for one in app.markdown if "to draw the pixels" in one.value)
    signs = {"less": -1, "more": 1}
    total, *parts = (
        signs[word] * number(value) for value, word in
        re.findall(r"([\d.]+)(?: nats)? (less|more)", beside)
    )  # fmt: skip
    assert total == sum(parts)


def test_overview_defines_its_terms_once_and_each_tile_says_which_way_is_better():
    app = screen(page_named("overview"), model="digits-2d")
    text = said(app)
    for words_of in (
        "1 nat = 1.44 bits",
        "e ≈ 2.7 times",
        "*Variational*",
        "the *evidence* is log p(x)",
    ):
        assert words_of in text
    assert "699 images that training never learnt from: 200 validation images" in text
    assert "499 calibration images, which nothing was tuned on" in text
    assert "mean over all 699 held-out images" in text
    better = {one.label: one.delta.rpartition(", ")[2] for one in app.metric}
    assert better.pop("Active units") == "mean moves with the image"
    for label, which in better.items():
        lower = label in ("Rate (KL)", "Distortion")
        assert which == ("lower is better" if lower else "higher is better"), label


def test_the_chip_about_nats_opens_without_a_mouse_and_train_has_none():
    """A summary is reached and opened by keyboard and touch."""
    text = text_of(screen(page_named("sample_elbo")))
    assert re.search(r"<details[^>]*><summary>nats: [^<]*</summary><p>A nat [^<]*better", text)
    assert '<div class="elb-badges"' in text
    assert '<div class="elb-badges"' not in text_of(screen(page_named("train")))


def test_newcomers_find_their_answers_where_they_look():
    overview, train, score = (
        said(screen(page_named(name), model="digits-2d-beta-3"))
        for name in ("overview", "train", "score_images")
    )
    for text in (overview, train):
        assert "by `python -m vae import`" in text
    assert "--data folder:PATH" in overview
    for text in (overview, score):
        assert "means nothing by itself" in text
        assert "the calibration images, the percentile" in text
    assert "Trained with β = 3; the ELBO shown is the true one, at β = 1." in overview
    assert "the true one" not in said(screen(page_named("overview"), model="digits-2d"))


@pytest.mark.parametrize("model", MODELS)
def test_active_units_are_counted_by_one_rule(model):
    loaded = vae.load(ROOT / "checkpoints" / model)
    metrics = manifest_of(loaded.path)["metrics"]
    assert access.table(loaded).active.sum() == metrics["active_units"]


def test_traversals_fold_away_what_is_no_active_unit():
    app = screen(page_named("traversals"), model="mnist-burda")
    assert "<b>22</b> of 50 dimensions are active units" in text_of(app)
    (toggle,) = (one for one in app.toggle if one.key == "silent")
    assert toggle.label == "Show 28 that are no active units"
    assert toggle.help == words.ACTIVE


@pytest.mark.parametrize("registered", [False, True])
def test_a_folder_is_trained_on_once_it_is_registered(registered, monkeypatch, tmp_path):
    from vae.ui.models import train

    if registered:
        found = {"folder mine": f"folder:{tmp_path}"}
        monkeypatch.setattr(train, "registered_folders", lambda: found)
    else:
        monkeypatch.delenv("ELBOSCOPE_FOLDERS", raising=False)
        assert train.registered_folders() == {}
    app = screen(page_named("train"))
    app.selectbox(key="data-digits-2d").set_value("a folder of your own images").run()
    assert not app.exception
    (start,) = (one for one in app.button if one.key == "start")
    assert start.disabled != registered
    if registered:
        assert f"--data folder:{tmp_path}" in app.code[0].value
    else:
        assert "python -m vae app --folders PATH" in app.warning[0].value
        assert not app.code


def test_choices_of_a_run_are_named_as_elsewhere():
    app = screen(page_named("train"))
    likelihood = app.selectbox(key="likelihood-digits-2d")
    assert "Discretised logistic" in likelihood.options
    likelihood.set_value("bernoulli").run()
    assert "binarise the grey ones" in app.warning[0].value


# Words that were given up for others, and American spellings of words that screens use.
RETIRED = re.compile(
    r"kept aside|keep aside|reference (set|image|sample|code)s?\b|active (latent )?dimension|"
    r"carry information|[a-z]{3}(ization|izing|ized|izes)\b|"
    r"(?<!-)\b(color|gray|behavior|center|neighbor)",
    re.IGNORECASE,
)


def sentences(path):
    """The texts of a source file that hold a space, but for its docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value) for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            if " " in node.value.strip():
                yield node.value


SOURCES = [
    *(ROOT / "pages").glob("*.py"),
    *(path for path in (ROOT / "vae" / "ui").rglob("*.py") if path.name != "style.py"),
    *(ROOT / "vae" / "figures").glob("*.py"),
    ROOT / "vae" / "scoring" / "verdict.py",
    ROOT / "vae" / "model" / "likelihoods.py",
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_screens_use_one_word_and_one_spelling(path):
    found = [text for text in sentences(path) if RETIRED.search(text)]
    assert found == []


def test_a_retired_word_would_be_found(tmp_path):
    (tmp_path / "page.py").write_text('"""kept aside"""\nst.caption("Images kept aside.")\n')
    assert [bool(RETIRED.search(one)) for one in sentences(tmp_path / "page.py")] == [True]
