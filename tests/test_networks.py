"""Networks: shapes, gradients, and one image's code without its batch-mates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from vae.data.spec import ImageSpec
from vae.elbo.terms import sampled_terms
from vae.model.config import Activation, LikelihoodName, ModelConfig, Network
from vae.model.networks import ResidualBlock
from vae.model.vae import VAE


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


def test_the_codes_of_a_resnet_do_not_know_their_batch_mates() -> None:
    torch.manual_seed(0)
    config = ModelConfig(ImageSpec(3, 28, 28), network="resnet", hidden=(9,), channels=(8, 16))
    model = VAE(config).train()
    x = torch.rand(5, 3, 28, 28)
    alone, among = model.encode(x[:1]).mean, model.encode(x).mean[:1]
    assert torch.allclose(alone, among, atol=1e-5)
    decoded, mates = model.decode(among).mean, model.decode(model.encode(x).mean).mean[:1]
    assert torch.allclose(decoded, mates, atol=1e-5)
    assert not [layer for layer in model.modules() if "BatchNorm" in type(layer).__name__]


@pytest.mark.parametrize("latent_dim", [1, 512])
@pytest.mark.parametrize("network", get_args(Network))
def test_few_and_many_latent_dimensions(network: str, latent_dim: int) -> None:
    config = ModelConfig(
        ImageSpec(1, 8, 8), network=network, hidden=(5,), channels=(4,), latent_dim=latent_dim
    )
    q = VAE(config).encode(torch.rand(2, 1, 8, 8))
    assert q.mean.shape == (2, latent_dim)


def test_a_residual_block_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    h = torch.randn(2, 16, 7, 7)
    change = (ResidualBlock(16, "silu")(h) - h).detach()
    assert 0 < float(change.std()) < 0.2


def test_the_mean_image_centres_the_input_and_travels_with_the_weights() -> None:
    config = ModelConfig(ImageSpec(1, 4, 4), hidden=(5,), centering="mean")
    model, mean = VAE(config), torch.rand(1, 4, 4)
    plain = VAE(replace(config, centering="half"))
    assert "encoder.mean" not in plain.state_dict()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "encoder.mean"})
    model.encoder.centre_at_(mean)
    plain.encoder.centre_at_(mean)
    assert torch.equal(model.state_dict()["encoder.mean"], mean)
    x = torch.rand(3, 1, 4, 4)
    # 2x' - 1 = x - mean at x' = (x - mean + 1) / 2.
    expected = plain.encode((x - mean + 1) / 2).mean
    assert torch.allclose(model.encode(x).mean, expected, atol=1e-6)


@pytest.mark.parametrize("network", get_args(Network))
def test_autocast_ends_before_the_distributions(network: str) -> None:
    config = ModelConfig(ImageSpec(1, 8, 8), network=network, hidden=(5,), channels=(4,))
    model = VAE(config)
    with torch.autocast("cpu", torch.bfloat16):
        q = model.encode(torch.rand(2, 1, 8, 8))
        p = model.decode(q.mean)
    assert q.mean.dtype == q.stddev.dtype == p.mean.dtype == torch.float32


def test_sigma_has_a_floor_and_a_bound() -> None:
    model = VAE(ModelConfig(ImageSpec(1, 8, 8), hidden=(4,), sigma_floor=0.05))
    with torch.no_grad():
        for bias, expected in ((-1e6, 0.05), (1e6, math.exp(10))):
            model.encoder.head.bias[2:] = bias
            sigma = model.encode(torch.rand(3, 1, 8, 8)).stddev
            assert sigma.numpy() == pytest.approx(expected, rel=1e-4)
