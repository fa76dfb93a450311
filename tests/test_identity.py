"""One model with two reference sets: no screen shows the samples of the other one."""

import shutil

import numpy as np
import pytest
from checkpoint_files import facts_of
from test_pages import frame, page_named, text_of

from vae.data.images.encoding import encode_png, to_image
from vae.figures.pictures import data_url, to_bytes
from vae.scoring.scorer import ScoreSettings
from vae.store.checkpoint import load, write

# A number of the chosen sample that a screen shows, and its decimals.
SHOWN = {
    "latent_map": (lambda reference: kl(reference), 2),
    "kl_per_sample": (lambda reference: kl(reference), 4),
    "sample_elbo": (lambda reference: reference.elbo, 4),
    "bound": (lambda reference: reference.log_evidence, 4),
    "derivation": (lambda reference: reference.elbo, 4),
}


def kl(reference):
    """The KL of each image in nats, (N,)."""
    mu, log_variance = reference.mu, reference.log_variance
    return 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance).sum(1)


@pytest.fixture(scope="module")
def twins(tmp_path_factory, checkpoint):
    """A folder with digits-2d, and the same weights with the reference set the other way round."""
    root, source = tmp_path_factory.mktemp("twins"), checkpoint("digits-2d")
    turned = type(source.reference)(
        *(None if field is None else field[::-1].copy() for field in source.reference)
    )
    facts = facts_of(source.path)
    write(root / "digits-2d", source.model, source.reference, (), facts)
    write(root / "turned", source.model, turned, (), facts)
    return root


def test_an_identity_covers_the_reference_set_too(twins, checkpoint):
    one, other = load(twins / "digits-2d"), load(twins / "turned")
    assert one.weights_sha256 == other.weights_sha256
    assert one.identity != other.identity
    assert one.identity == load(twins / "digits-2d").identity


@pytest.mark.parametrize("page", SHOWN)
def test_no_number_of_the_other_reference_set(monkeypatch, twins, page):
    from vae.ui import access

    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(twins))
    access.entries.clear()
    read, digits = SHOWN[page]
    texts, numbers, pictures = [], [], []
    for name in ("digits-2d", "turned"):
        app = frame(model=name, sample=5).switch_page(str(page_named(page))).run()
        assert not app.exception, app.exception[0].stack_trace
        markdown = [one.value.replace("\N{MINUS SIGN}", "-") for one in app.markdown]
        texts.append(" ".join((text_of(app), *markdown)))
        model = load(twins / name)
        numbers.append(f"{read(model.reference)[5]:.{digits}f}")
        image = model.config.image.from_levels(model.reference.levels[5])
        pictures.append(data_url(to_bytes(image)))
    access.entries.clear()
    for own, other in ((0, 1), (1, 0)):
        assert numbers[own] in texts[own] and pictures[own] in texts[own]
        assert numbers[other] not in texts[own] and pictures[other] not in texts[own]


def test_replaced_files_are_read_anew_under_the_same_name(monkeypatch, tmp_path, twins):
    """The caches know a model by what it holds, whatever its name and place."""
    from vae.ui import access

    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    found = []
    for source in ("digits-2d", "turned", "digits-2d"):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        shutil.copytree(twins / source, tmp_path / "mine")
        access.entries.clear()
        model, levels = access.checkpoint("mine"), load(twins / source).reference.levels
        assert (access.levels_of(model, 5) == levels[5]).all()
        found.append((access.table(model).elbo[5], access.receipt(model, 5).elbo))
    access.entries.clear()
    assert found[0] == found[2]
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]
    for stored, anew in found:
        assert anew == pytest.approx(stored, abs=1e-4)


def test_an_upload_is_scored_by_the_model_that_is_chosen(checkpoint):
    from vae.ui.scoring.batches import score_in_parts

    first, second = checkpoint("digits-2d"), checkpoint("digits-10d")
    files = [("a.png", encode_png(to_image(first.reference.levels[5], first.config.image)))]
    elbos = []
    for model in (first, second, first):
        (scores,) = score_in_parts(model, files, ScoreSettings(evidence=False))
        elbos.append(scores[0].row.elbo)
    assert elbos[0] == elbos[2] != elbos[1]
    assert elbos[0] == pytest.approx(first.reference.elbo[5], abs=1e-4)
