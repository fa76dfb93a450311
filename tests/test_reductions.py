"""Every listed reduction is worth the weight that it is said to be worth."""

import numpy as np
import pytest

from vae.elbo.reductions import REDUCTIONS, Shapes


def terms(shapes):
    generator = np.random.default_rng(shapes.batch)
    return (
        generator.gamma(2.0, size=(shapes.batch, shapes.pixels)),
        generator.gamma(1.0, size=(shapes.batch, shapes.dims)),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda one: one.code)
@pytest.mark.parametrize(
    "shapes", [Shapes(8, 2, 64, 1_098), Shapes(32, 10, 784, 60_000), Shapes(5, 7, 12, 300)]
)
def test_the_stated_weight_is_the_loss_s_own(reduction, shapes):
    """Scaling each term alone shows how much of it the loss holds."""
    nll, kl = terms(shapes)
    step = 1e-6
    base = reduction.loss(nll, kl, shapes)
    likelihood = (reduction.loss(nll * (1 + step), kl, shapes) - base) / step
    divergence = (reduction.loss(nll, kl * (1 + step), shapes) - base) / step
    likelihood /= nll.sum(1).mean()
    divergence /= kl.sum(1).mean()
    assert divergence / likelihood == pytest.approx(
        reduction.effective_beta(shapes), rel=1e-4, abs=1e-9
    )


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda one: one.code)
def test_the_verdict_follows_from_the_weight(reduction):
    weights = {
        reduction.effective_beta(Shapes(*sizes))
        for sizes in [(8, 2, 64, 1_000), (16, 3, 65, 2_000)]
    }
    expected = {"right": weights == {1.0}, "no KL at all": weights == {0.0}}
    assert expected.get(reduction.verdict, weights.isdisjoint({0.0, 1.0}))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda one: one.code)
def test_the_code_computes_the_loss(reduction):
    """The line of code that is shown is the one that is computed."""
    import torch

    shapes = Shapes(6, 3, 20, 500)
    nll, kl = terms(shapes)
    names = {
        "nll": torch.from_numpy(nll), "kl": torch.from_numpy(kl), "capacity": 0.0,
        "B": shapes.batch, "P": shapes.pixels, "N": shapes.images,
    }  # fmt: skip
    value = eval(reduction.code, {}, names)  # noqa: S307
    assert float(value) == pytest.approx(reduction.loss(nll, kl, shapes))


def test_two_that_look_wrong_are_acquitted():
    acquitted = [one for one in REDUCTIONS if "Acquitted" in one.explanation]
    assert len(acquitted) == 2
    assert all(one.verdict == "right" for one in acquitted)
