"""Configs of runs, models and images: presets, refusals, nothing without an effect."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import pytest
import torch

from vae.data.sets.datasets import open_data
from vae.data.sets.published import SETS
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.vae import VAE
from vae.training.config import TrainConfig
from vae.training.presets import DEFAULT_PRESET, PRESETS

QUICK = TrainConfig(hidden=(16,), latent_dim=3, steps=12, device="cpu")


def spec_of(data: str) -> ImageSpec:
    """The images of a data set, which need not be on this machine."""
    published = SETS.get(data.removesuffix(":full"))
    return published.spec if published else open_data(data).spec


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_a_model(name: str) -> None:
    config = PRESETS[name]
    spec = spec_of(config.data)
    model = config.model(spec)
    assert ModelConfig.from_dict(model.to_dict()) == model
    assert model.image == spec and config.title and config.description
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "rnn"}, "network must be one of mlp, conv, resnet, not 'rnn'"),
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
        ({"likelihood": "bernoulli"}, "binarise the grey ones"),
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
        ({"objective": "elbow"}, "objective must be one of elbo, beta, capacity, free_bits"),
        ({"importance_samples": -1}, "importance_samples must be at least 0"),
        ({"schedule": "step"}, "schedule must be one of cosine, constant, constant_then_linear"),
        ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16"),
        ({"compile": "maybe"}, "compile must be one of auto, on, off"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"max_minutes": math.nan}, "max_minutes must be at least 0 and finite"),
        ({"iwae_samples": 0, "objective": "iwae"}, "iwae_samples must be at least 1"),
        ({"moment_weight": 1.0}, "takes effect only with --objective batch_moment_kl"),
        ({"capacity": 9.0}, "capacity=9.0 takes effect only with --objective capacity"),
        ({"free_nats": 1.0}, "takes effect only with --objective free_bits"),
        ({"free_bits_over": "minibatch"}, "takes effect only with --objective free_bits"),
        ({"iwae_samples": 9}, "takes effect only with --objective iwae"),
        ({"tc_estimator": "stratified"}, "takes effect only with --objective beta_tc"),
        ({"beta_schedule": "cyclical"}, "takes effect only with --objective beta"),
        ({"beta_steps": 9, "objective": "beta"}, "with --beta-schedule warm_up or cyclical"),
        ({"beta": 2.0, "objective": "iwae"}, "with --objective beta or beta_tc"),
        ({"channels": (8, 16)}, "channels=8 16 takes effect only with --network conv or resnet"),
        ({"blocks": 3, "network": "conv"}, "blocks=3 takes effect only with --network resnet"),
        ({"sigma": 0.5}, "takes effect only with --likelihood gaussian"),
        ({"spread": "pixel", "likelihood": "gaussian"}, "--likelihood discretized_logistic"),
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
    for config in (QUICK, QUICK.model(ImageSpec(1, 8, 8)), ImageSpec(1, 8, 8)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.latent_dim = 9


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_is_rebuilt_from_its_json(name: str) -> None:
    config = PRESETS[name].resolved(spec_of(PRESETS[name].data))
    assert TrainConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ValueError, match="unknown fields in the run's config: wings"):
        TrainConfig.from_dict({"wings": 2})


@pytest.mark.parametrize("network", ["mlp", "conv", "resnet"])
@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 96, 128])
def test_widths_suit_the_images(side: int, network: str) -> None:
    image = ImageSpec(3, side, side)
    config = TrainConfig(network=network)
    model = config.model(image)
    assert config.resolved(image).model(image) == model
    if network != "mlp":
        assert 4 <= side // 2 ** len(model.channels) <= 7
        assert list(model.channels) == sorted(model.channels)
    given = replace(config, hidden=(7,), channels=None if network == "mlp" else (5,)).model(image)
    assert given.hidden == (7,) and (network == "mlp" or given.channels == (5,))
    assert replace(config, hidden=()).model(image).hidden == ()


def test_a_description_without_later_fields_is_as_it_always_was() -> None:
    plain = ModelConfig(ImageSpec(1, 8, 8)).to_dict()
    assert not {"blocks", "initialization", "centering"} & set(plain)
    later = ModelConfig(ImageSpec(1, 8, 8), network="resnet", channels=(4,), blocks=1)
    assert later.to_dict()["blocks"] == 1
    assert ModelConfig.from_dict(later.to_dict()) == later


def test_burda_et_al_can_be_asked_for() -> None:
    """The architecture and recipe of Importance Weighted Autoencoders, table 1, k = 1."""
    config = TrainConfig(
        hidden=(200, 200), latent_dim=50, activation="tanh", likelihood="bernoulli",
        binarize="dynamic", initialization="xavier", centering="mean", learning_rate=4e-3,
        warmup_steps=500, ema=0.9995, max_minutes=15.0, steps=10**6, batch_size=512,
    )  # fmt: skip
    model = VAE(config.model(ImageSpec(1, 28, 28)))
    weights = sum(parameter.numel() for parameter in model.parameters())
    encoder = 784 * 200 + 200 + 200 * 200 + 200 + 200 * 100 + 100
    assert weights == encoder + 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            bound = math.sqrt(6 / sum(layer.weight.shape))
            assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
            assert not layer.bias.any()
