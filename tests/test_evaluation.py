"""Evaluating a set: the same numbers from one thread and from several, and no trace left."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from vae.cli.evaluate import metrics_table
from vae.scoring.evaluation import Statistics, calibration_evidence, means_of, statistics_of


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def statistics(model, rows: np.ndarray, read=None) -> Statistics:
    reader = read or (lambda some: model.reference.levels[rows[some]])
    return statistics_of(model.model, reader, len(rows), 4, 8, progress=False)


def test_threads_and_parts_change_no_number(checkpoint, two_threads):
    model, rows = checkpoint("digits-10d"), np.arange(70)
    torch.set_num_threads(1)
    alone = statistics(model, rows)
    torch.set_num_threads(2)
    seen = set()

    def read(some: np.ndarray) -> np.ndarray:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return model.reference.levels[rows[some]]

    together = statistics(model, rows, read)
    for name, one, other in zip(Statistics._fields, alone, together, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    # The parts were computed by threads of their own, each by itself.
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2


def test_what_a_thread_raises_ends_the_evaluation(checkpoint, two_threads):
    def read(some: np.ndarray) -> np.ndarray:
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        statistics(checkpoint("digits-10d"), np.arange(70), read)
    assert torch.get_num_threads() == 2


def test_one_image_is_enough(checkpoint):
    one = statistics(checkpoint("digits-10d"), np.arange(1))
    assert one.elbo.shape == (1,) and np.isfinite(one.elbo).all()


@pytest.mark.parametrize(("count", "known"), [(None, 24), (100, 24), (24, 24), (7, 7), (0, 0)])
def test_the_evidence_is_bounded_by_number(checkpoint, count, known):
    model, rows = checkpoint("digits-2d"), np.arange(188, 212)  # across both splits
    found = statistics_of(
        model.model, lambda some: model.reference.levels[rows[some]], 24, importance_samples=0,
        progress=False, evidence_images=count,
    )  # fmt: skip
    here = np.flatnonzero(np.isfinite(found.log_evidence))
    assert len(here) == known
    np.testing.assert_allclose(
        found.log_evidence[here], model.reference.log_evidence[rows[here]], atol=1e-3
    )
    np.testing.assert_allclose(found.elbo, model.reference.elbo[rows], atol=1e-4)
    # Evenly spread, so that each split has its part.
    if known == 7:
        assert here.tolist() == [0, 4, 8, 12, 15, 19, 23]
    means = means_of(model, found)
    if not known:
        assert "log_evidence" not in means
        return
    assert means["log_evidence"] == pytest.approx(found.log_evidence[here].mean())
    assert means.get("log_evidence_images", 24) == known
    assert f"log p(x), exact{', 7 of 24 images' if known == 7 else ' '}" in metrics_table(
        {**means, "importance_samples": 0}
    )


def test_a_run_tells_of_how_many_images_it_knows_the_evidence(tmp_path, capsys):
    from vae.cli.main import main
    from vae.store.checkpoint import load

    words = ["train", "digits-2d", "--steps", "4", "--hidden", "8", "--importance-samples", "0"]
    out = tmp_path / "model"
    assert main([*words, "--evidence-images", "14", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "log p(x), exact, 4 of 200 images" in said.out
    # Unless --quiet: the evaluation after the training shows how far it is.
    assert "held-out images: 100%" in said.err and "699/699" in said.err
    model = load(out)
    assert np.isfinite(model.reference.log_evidence).sum() == 14
    assert model.card.metrics.log_evidence_images == 4
    assert model.card.run["evidence_images"] == 14


@pytest.mark.parametrize("asked", [14, 699, 10_000])
def test_evidence_is_compared_with_that_of_images_where_it_was_computed(checkpoint, asked):
    """An image beyond `--evidence-images` is unknown; one out of reach is stranger than all."""
    model = checkpoint("digits-2d")
    full = model.reference.log_evidence
    chosen = np.linspace(0, model.reference.size - 1, min(asked, 699)).round().astype(int)
    computed = np.full_like(full, np.nan)
    computed[chosen] = full[chosen]
    rows = model.reference.of_split("calibration")
    inside = np.intersect1d(rows, chosen)
    computed[inside[0]] = np.nan
    partly = dataclasses.replace(
        model,
        reference=model.reference._replace(log_evidence=computed),
        card=dataclasses.replace(model.card, run={"evidence_images": asked}),
    )
    known = calibration_evidence(partly)
    assert known.tolist() == [-np.inf, *full[inside[1:]]]
