"""The training loop: the same seed gives the same weights, and the best ones are kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_files import manifest_of
from conftest import few_digits

from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.elbo.terms import sampled_terms
from vae.model.vae import VAE
from vae.scoring.evaluation import evaluate, split_metrics
from vae.training.arithmetic import choose_device
from vae.training.config import TrainConfig
from vae.training.fit import Diverged, Fitted, fit

QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=12, batch_size=32, evaluate_every=6, warmup_steps=2,
    device="cpu",
)  # fmt: skip


def train(**changes: object) -> Fitted:
    return fit(replace(QUICK, **changes), few_digits(), progress=False)


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    return fitted.model.state_dict()


def same(one: Fitted, other: Fitted) -> bool:
    return all(torch.equal(value, weights(other)[key]) for key, value in weights(one).items())


# --- The loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_a_long_gradient_is_clipped(clip: float) -> None:
    assert same(train(clip=clip), train(clip=1e3)) == (clip == 1e3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_noise": 0.2, "objective": "batch_moment_kl"},
        {"likelihood": "bernoulli", "binarize": "dynamic"},
        {"network": "conv", "channels": (4, 8)},
    ],
)
def test_the_same_seed_gives_the_same_weights(changes: dict) -> None:
    torch.manual_seed(1)
    one = train(**changes)
    # Neither the global generator nor an earlier run leaves a trace, nor do we on it.
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(train(**changes), one)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(train(**changes, seed=7), one)


def test_the_loss_falls() -> None:
    fitted = train(steps=60, evaluate_every=20)
    elbos = [record["validation"]["elbo"] for record in fitted.history]
    assert [record["step"] for record in fitted.history] == [20, 40, 60]
    assert elbos == sorted(elbos) and elbos[-1] > elbos[0] + 5
    assert fitted.best_step == 60


def test_training_starts_at_the_mean_image() -> None:
    data = few_digits()
    model = VAE(QUICK.model(data.spec))
    mean = torch.from_numpy(data.read(data.splits.train) / 16).mean(0).float()
    model.decoder.start_at_(mean)
    decoded = model.decode(torch.zeros(1, 3)).mean[0].detach()
    assert (decoded - mean).abs().mean() < 0.15


@pytest.mark.parametrize("objective", ["elbo", "batch_moment_kl"])
def test_the_best_weights_are_kept(objective: str) -> None:
    # Four images are soon learnt by heart; the contrast keeps its end, whatever it is.
    data = few_digits()
    data = replace(data, splits=data.splits._replace(train=data.splits.train[:4]))
    config = replace(QUICK, steps=80, evaluate_every=8, learning_rate=0.02, ema=0.0)
    fitted = fit(replace(config, objective=objective), data, progress=False)
    elbos = {record["step"]: record["validation"]["elbo"] for record in fitted.history}
    best = max(elbos, key=elbos.get)
    assert best != 80
    assert fitted.best_step == (best if objective == "elbo" else 80)
    found = estimate_elbo(see(fitted.model, data.read(data.splits.validation)), 8)
    assert float(found.terms.elbo.mean()) == pytest.approx(elbos[fitted.best_step], abs=1e-6)


@pytest.mark.parametrize("input_noise", [0.0, 0.5])
def test_noise_on_the_input_is_for_training_only(
    input_noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(model, x, noise, encoder_noise):
        seen.append(torch.as_tensor(encoder_noise).expand_as(x))
        return sampled_terms(model, x, noise, encoder_noise)

    monkeypatch.setattr("vae.training.loss.training_loss.sampled_terms", spy)
    fitted = train(ema=0.0, input_noise=input_noise)
    assert len(seen) == QUICK.steps
    for noise in seen:
        assert float(noise.std()) == pytest.approx(input_noise, rel=0.1)
    data = few_digits()
    clean = estimate_elbo(see(fitted.model, data.read(data.splits.validation)), 8)
    stated = fitted.history[-1]["validation"]
    assert stated["elbo"] == pytest.approx(float(clean.terms.elbo.mean()), abs=1e-9)
    assert stated["kl_per_dim"] == pytest.approx(clean.terms.kl_per_dim.mean(0).tolist())


def test_only_train_and_validation_are_read() -> None:
    data, asked = few_digits(), []

    def read(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return data.read(indices)

    fit(QUICK, replace(data, read=read), progress=False)
    seen = np.concatenate(asked)
    assert not np.intersect1d(seen, data.splits.calibration).size
    assert set(data.splits.train) <= set(seen.tolist())


def test_averaged_weights_lag_behind() -> None:
    last, slow = train(ema=0.0), train(ema=0.99)
    start = train(ema=0.0, steps=1, learning_rate=1e-12)
    name = "encoder.head.weight"
    far, near = ((weights(run)[name] - weights(start)[name]).norm() for run in (last, slow))
    assert 0 < near < far


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian"])
def test_divergence_is_named(likelihood: str) -> None:
    with pytest.raises(Diverged, match="no longer finite"):
        train(learning_rate=1e12, clip=1e12, likelihood=likelihood, steps=30)


def test_a_missing_device_names_those_there_are() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda", "mps"):
        try:
            choose_device(name)
        except ValueError as error:
            assert name in str(error) and "choose one of: cpu" in str(error)


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluating_again_finds_the_stored_metrics(checkpoint) -> None:
    model = checkpoint("digits-10d")
    stored = manifest_of(model.path)["metrics"]
    found = evaluate(model, importance_samples=stored["importance_samples"], progress=False)
    assert found["split"] == stored["split"]
    numbers = {name: value for name, value in stored.items() if name != "split"}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-4)


def test_metrics_are_means_over_one_split(checkpoint) -> None:
    model = checkpoint("digits-2d")
    reference = model.reference
    for split in ("validation", "calibration"):
        metrics = split_metrics(model, reference, split)
        elbo = reference.elbo[reference.of_split(split)]
        assert metrics["images"] == len(elbo) and metrics["split"] == split
        assert metrics["elbo"] == pytest.approx(elbo.mean())
        assert metrics["elbo_se"] == pytest.approx(elbo.std(ddof=1) / math.sqrt(len(elbo)))
        assert metrics["elbo"] == pytest.approx(-metrics["distortion"] - metrics["rate"])
        assert metrics["elbo"] < metrics["iwae_bound"] < metrics["log_evidence"]
        assert metrics["bits_per_dim"] == pytest.approx(-metrics["elbo"] / 64 / math.log(2))
        assert metrics["active_units"] == 2
        assert "log_evidence_images" not in metrics


def test_a_mean_says_of_how_many_images_it_is(checkpoint) -> None:
    model = checkpoint("digits-2d")
    # As of three images out of the quadrature's reach.
    log_evidence = model.reference.log_evidence.copy()
    rows = model.reference.of_split("validation")
    log_evidence[rows[[4, 70, 199]]] = np.nan
    reference = model.reference._replace(log_evidence=log_evidence)
    metrics = split_metrics(model, reference, "validation")
    known = np.delete(model.reference.log_evidence[rows], [4, 70, 199])
    assert metrics["log_evidence"] == pytest.approx(known.mean())
    assert metrics["log_evidence_se"] == pytest.approx(known.std(ddof=1) / math.sqrt(197))
    assert (metrics["log_evidence_images"], metrics["images"]) == (197, 200)
    # None is within reach: then there is no mean, and nothing to count.
    reference = model.reference._replace(log_evidence=np.full_like(log_evidence, np.nan))
    metrics = split_metrics(model, reference, "validation")
    assert not [name for name in metrics if name.startswith("log_evidence")]
