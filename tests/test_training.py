"""Training: the same seed gives the same weights, objectives by hand, and wrong configs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import few_digits
from torch.distributions import Independent, Normal

from vae.data.datasets import open_data
from vae.data.spec import ImageSpec
from vae.elbo.evaluation import evaluate, split_metrics
from vae.elbo.scoring import sample_scores
from vae.elbo.terms import Terms, sampled_terms
from vae.model.config import Activation, LikelihoodName, ModelConfig, Network
from vae.model.vae import VAE
from vae.training.config import TrainConfig
from vae.training.fit import Diverged, Fitted, _rate, choose_device, fit
from vae.training.objectives import per_sample_loss
from vae.training.presets import DEFAULT_PRESET, PRESETS

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
    found = sample_scores(fitted.model, data.read(data.splits.validation), draws=8)
    assert float(found.terms.elbo.mean()) == pytest.approx(elbos[fitted.best_step], abs=1e-6)


@pytest.mark.parametrize("input_noise", [0.0, 0.5])
def test_noise_on_the_input_is_for_training_only(
    input_noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(model, x, noise, encoder_noise):
        seen.append(torch.as_tensor(encoder_noise).expand_as(x))
        return sampled_terms(model, x, noise, encoder_noise)

    monkeypatch.setattr("vae.training.fit.sampled_terms", spy)
    fitted = train(ema=0.0, input_noise=input_noise)
    assert len(seen) == QUICK.steps
    for noise in seen:
        assert float(noise.std()) == pytest.approx(input_noise, rel=0.1)
    data = few_digits()
    clean = sample_scores(fitted.model, data.read(data.splits.validation), draws=8)
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


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = replace(QUICK, steps=100, warmup_steps=10)
    rates = [_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, abs=1e-3)
    assert rates[:10] == sorted(rates[:10]) and rates[9] > 0.97
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)
    assert _rate(0, replace(config, warmup_steps=0)) == 1


def test_a_missing_device_names_those_there_are() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda", "mps"):
        try:
            choose_device(name)
        except ValueError as error:
            assert name in str(error) and "choose one of: cpu" in str(error)


# --- Networks ---------------------------------------------------------------------------------


def image_of(likelihood: str, side: tuple[int, int] = (8, 8), channels: int = 1) -> ImageSpec:
    return ImageSpec(channels, *side, levels=2 if likelihood == "bernoulli" else 17)


@pytest.mark.parametrize("likelihood", get_args(LikelihoodName))
@pytest.mark.parametrize("network", get_args(Network))
def test_every_parameter_gets_a_finite_gradient(network: str, likelihood: str) -> None:
    torch.manual_seed(0)
    image = image_of(likelihood)
    model = VAE(
        ModelConfig(
            image, latent_dim=3, network=network, hidden=(12,), channels=(4, 6),
            likelihood=likelihood, spread="pixel",
        )
    )  # fmt: skip
    x = torch.randint(image.levels, (6, *image.shape)) / (image.levels - 1)
    terms, _, _ = sampled_terms(model, x, torch.randn(6, 3))
    (-terms.elbo.mean()).backward()
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("side", [(8, 8), (28, 28), (64, 64), (30, 22), (9, 15)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", get_args(Network))
def test_shapes_come_back(network: str, channels: int, side: tuple[int, int]) -> None:
    widths = (3, 4, 5, 6)[: int(math.log2(min(side)))]
    config = ModelConfig(
        ImageSpec(channels, *side), latent_dim=5, network=network, hidden=(7,), channels=widths
    )
    model = VAE(config)
    for batch in (1, 3):
        q = model.encode(torch.rand(batch, channels, *side))
        assert (q.batch_shape, q.event_shape) == ((batch,), (5,))
        p = model.decode(q.mean)
        assert (p.batch_shape, p.event_shape) == ((batch,), (channels, *side))
        assert p.mean.shape == (batch, channels, *side)


@pytest.mark.parametrize("hidden", [(), (9,), (9, 8)])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_any_depth_and_activation(activation: str, hidden: tuple[int, ...]) -> None:
    for network in get_args(Network):
        config = ModelConfig(
            ImageSpec(1, 8, 8),
            network=network,
            hidden=hidden,
            channels=(3,),
            activation=activation,
        )
        assert VAE(config).decode(torch.zeros(2, 2)).mean.shape == (2, 1, 8, 8)


def test_sigma_has_a_floor_and_a_bound() -> None:
    model = VAE(ModelConfig(ImageSpec(1, 8, 8), hidden=(4,), sigma_floor=0.05))
    with torch.no_grad():
        for bias, expected in ((-1e6, 0.05), (1e6, math.exp(10))):
            model.encoder.head.bias[2:] = bias
            sigma = model.encode(torch.rand(3, 1, 8, 8)).stddev
            assert sigma.numpy() == pytest.approx(expected, rel=1e-4)


# --- Objectives -------------------------------------------------------------------------------

TERMS = Terms(torch.tensor([-10.0, -20.0]), torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
POSTERIOR = Independent(Normal(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.5), 1)


def test_elbo_by_hand() -> None:
    assert per_sample_loss(QUICK, TERMS, POSTERIOR).tolist() == [13, 20.5]


def test_beta_by_hand() -> None:
    config = replace(QUICK, objective="beta", beta=4.0)
    assert per_sample_loss(config, TERMS, POSTERIOR).tolist() == [22, 22]


def test_batch_moment_kl_by_hand() -> None:
    # Variances of the batch: 1 + 0.25 and 0 + 0.25, means 0.
    config = replace(QUICK, objective="batch_moment_kl", moment_weight=2.0)
    penalty = sum(0.5 * (v - 1 - math.log(v)) for v in (1.25, 0.25))
    loss = per_sample_loss(config, TERMS, POSTERIOR)
    assert loss.tolist() == pytest.approx([10 + 2 * penalty, 20 + 2 * penalty])


def test_the_mistaken_penalty_misses_what_every_image_pays() -> None:
    sigma, count = 0.1, 20_000
    mu = torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).double()
    mu = math.sqrt(1 - sigma**2) * (mu - mu.mean()) / mu.std(correction=0)
    q = Independent(Normal(mu, sigma), 1)
    kl = 0.5 * (mu.square() + sigma**2 - 1) - math.log(sigma)
    terms = Terms(torch.zeros(count).double(), kl)
    mistaken = per_sample_loss(replace(QUICK, objective="batch_moment_kl"), terms, q)
    assert mistaken.abs().max() < 1e-9
    true = per_sample_loss(QUICK, terms, q)
    assert float(true.mean()) == pytest.approx(-math.log(sigma), abs=1e-9)


def test_the_shipped_pair_shows_the_mistake(checkpoint) -> None:
    names = ("digits-binary-2d", "digits-binary-2d-batch-moment")
    right, mistaken = (checkpoint(name) for name in names)
    assert right.manifest["config"]["objective"] == "elbo"
    assert mistaken.manifest["config"]["objective"] == "batch_moment_kl"
    # All else is equal: network, data, likelihood, floor.
    assert right.config == mistaken.config
    floor = right.config.sigma_floor
    sigma = {model.name: np.exp(0.5 * model.reference.log_variance) for model in (right, mistaken)}
    assert np.median(sigma[names[1]]) < 1.2 * floor
    assert np.median(sigma[names[0]]) > 3 * floor
    gap = {
        model.name: (model.reference.log_evidence - model.reference.elbo).mean()
        for model in (right, mistaken)
    }
    assert gap[names[1]] > 2 > gap[names[0]] > 0
    # The first two moments of its aggregate look like the prior's nonetheless.
    mu = mistaken.reference.mu
    total = mu.var(0) + (sigma[names[1]] ** 2).mean(0)
    assert np.abs(mu.mean(0)).max() < 0.2 and np.abs(total - 1).max() < 0.2


# --- Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_a_model(name: str) -> None:
    config = PRESETS[name]
    spec = open_data(config.data).spec
    model = config.model(spec)
    assert ModelConfig.from_dict(model.to_dict()) == model
    assert model.image == spec and config.title and config.description
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "rnn"}, "network must be one of mlp, conv, not 'rnn'"),
        ({"activation": "swish"}, "activation must be one of gelu, silu, tanh, relu"),
        ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, bernoulli_grey"),
        ({"binarize": "sometimes"}, "binarize must be one of none, threshold, dynamic"),
        ({"spread": "row"}, "spread must be one of shared, pixel"),
        ({"gaussian_sigma": "big"}, "gaussian_sigma must be one of fixed, learned, optimal"),
        ({"latent_dim": 0}, r"latent_dim must lie in 1\.\.512, not 0"),
        ({"hidden": (0,)}, r"hidden takes at most 16 widths in 1\.\.8192"),
        ({"hidden": (10**6,)}, r"hidden takes at most 16 widths in 1\.\.8192"),
        ({"channels": (8,) * 17}, "channels takes at most 16 widths"),
        ({"sigma_floor": 0.0}, "sigma_floor must lie in"),
        ({"sigma_floor": math.nan}, "sigma_floor must lie in"),
        ({"sigma": 0.0}, r"sigma must lie in \[0\.001, 10\]"),
        ({"network": "conv", "channels": ()}, "needs at least one width in channels"),
        ({"network": "conv", "channels": (8,) * 4}, "4 halvings are too many for 8x8 pixels"),
        ({"likelihood": "bernoulli"}, "set binarize to 'threshold' or 'dynamic'"),
        ({"binarize": "threshold"}, "goes with likelihood 'bernoulli' only"),
    ],
)
def test_a_wrong_model_names_the_valid(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(ModelConfig(ImageSpec(1, 8, 8, levels=17)), **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 and finite, not nan"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"beta": -1.0, "objective": "beta"}, "beta must be at least 0"),
        ({"input_noise": math.nan}, "input_noise must be at least 0 and finite, not nan"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"beta": 2.0}, "takes effect only with --objective beta"),
        ({"objective": "elbow"}, "objective must be one of elbo, beta, batch_moment_kl"),
        ({"importance_samples": -1}, "importance_samples must be at least 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and finite, not inf"),
    ],
)
def test_a_wrong_run_names_the_valid(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(QUICK, **changes)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ((2, 8, 8), r"channels must be 1 \(grey\) or 3 \(colour\), not 2"),
        ((1, 0, 8), r"height must lie in 1\.\.1024, not 0"),
        ((1, 8, 1025), r"width must lie in 1\.\.1024"),
        ((1, 8, 8, 1), r"levels must lie in 2\.\.256"),
        ((1, 8, 8, 257), r"levels must lie in 2\.\.256"),
        ((1, 8, 8, 2, 1.5), r"background must lie in \[0, 1\]"),
    ],
)
def test_a_wrong_image_names_the_valid(spec: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageSpec(*spec)


def test_configs_are_frozen() -> None:
    for config in (QUICK, QUICK.model(image_of("gaussian")), image_of("gaussian")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.latent_dim = 9


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluating_again_finds_the_stored_metrics(checkpoint) -> None:
    model = checkpoint("digits-10d")
    stored = model.manifest["metrics"]
    found = evaluate(model, importance_samples=stored["importance_samples"], progress=False)
    assert found["split"] == stored["split"]
    numbers = {name: value for name, value in stored.items() if name != "split"}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-4)


def test_metrics_are_means_over_one_split(checkpoint) -> None:
    model = checkpoint("digits-2d")
    reference = model.reference
    for split in ("validation", "calibration"):
        metrics = split_metrics(model.config, reference, split)
        elbo = reference.elbo[reference.of_split(split)]
        assert metrics["images"] == len(elbo) and metrics["split"] == split
        assert metrics["elbo"] == pytest.approx(elbo.mean())
        assert metrics["elbo_se"] == pytest.approx(elbo.std(ddof=1) / math.sqrt(len(elbo)))
        assert metrics["elbo"] == pytest.approx(-metrics["distortion"] - metrics["rate"])
        assert metrics["elbo"] < metrics["iwae_bound"] < metrics["log_evidence"]
        assert metrics["bits_per_dim"] == pytest.approx(-metrics["elbo"] / 64 / math.log(2))
        assert metrics["active_units"] == 2
