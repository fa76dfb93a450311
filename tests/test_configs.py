"""Configs of runs, models and images: presets, refusals, nothing without an effect."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest

from vae.data.datasets import open_data
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.training.config import TrainConfig
from vae.training.presets import DEFAULT_PRESET, PRESETS


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
