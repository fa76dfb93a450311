"""Models from elsewhere: every convention gives the same numbers; what cannot be kept is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from vae.data.spec import ImageSpec
from vae.importing.tracing import ROWS, Refused, trace
from vae.importing.wiring import Wiring, adapted, module_of
from vae.model.imported import ImportedConfig, ImportedVAE
from vae.model.program import Program

IMAGE, D = ImageSpec(1, 6, 6), 3


class Plain(nn.Module):
    """A VAE in the form of pytorch/examples: a pair, log-variances, flat probabilities."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, True)
        )
        self.head = nn.Linear(72, 2 * D)
        self.up = nn.Sequential(
            nn.Linear(D, 32), nn.ReLU(True), nn.Dropout(0.3), nn.Linear(32, 36)
        )
        self.trunk[1].running_mean.uniform_(-0.1, 0.1)
        self.trunk[1].running_var.uniform_(0.5, 1.5)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.trunk(x).flatten(1)).chunk(2, 1)

    def logits(self, z: Tensor) -> Tensor:
        return self.up(z).view(-1, 1, 6, 6)


class Offered:
    """The same network under another face."""

    def __init__(
        self, net: Plain, encode: Callable, decode: Callable, names: tuple[str, str]
    ) -> None:
        self.net = net
        setattr(self, names[0], lambda x: encode(net, x))
        setattr(self, names[1], lambda z: decode(net, z))


def pair(net: Plain, x: Tensor) -> Any:
    return net.moments(x)


def logits(net: Plain, z: Tensor) -> Any:
    return net.logits(z)


def sigmoid(net: Plain, z: Tensor) -> Any:
    return torch.sigmoid(net.logits(z))


def of_sigma(function: Callable[[Tensor], Tensor]) -> Callable:
    """An encoder that returns a function of the log-variance as its second output."""

    def encode(net: Plain, x: Tensor) -> Any:
        mu, log_variance = net.moments(x)
        return mu, function(log_variance)

    return encode


def normal(net: Plain, x: Tensor) -> Normal:
    mu, log_variance = net.moments(x)
    return Normal(mu, torch.exp(log_variance / 2))


def latent_dist(net: Plain, x: Tensor) -> Any:
    """As diffusers returns it: no torch distribution, but with a mean and a std."""
    q = normal(net, x)
    return SimpleNamespace(latent_dist=SimpleNamespace(mean=q.mean, std=q.stddev))


def interleaved(net: Plain, x: Tensor) -> Any:
    return torch.stack(net.moments(x), -1).flatten(1)


# How the same network may be offered (FOREIGN conventions), and how that is said.
CONVENTIONS: dict[str, tuple[Callable, Callable, tuple[str, str], dict[str, Any]]] = {
    "pair, probabilities": (pair, sigmoid, ("encode", "decode"), {}),
    "logits": (pair, logits, ("_encode", "_decode"), {"output": "logit"}),
    "flat": (
        lambda net, x: net.moments(x.view(-1, 1, 6, 6)), lambda net, z: sigmoid(net, z).flatten(1),
        ("encoder", "decoder"), {"layout": "flat"},
    ),
    "channels last": (
        lambda net, x: net.moments(x.permute(0, 3, 1, 2)),
        lambda net, z: sigmoid(net, z).permute(0, 2, 3, 1), ("encoder", "decoder"),
        {"layout": "nhwc"},
    ),
    "[-1, 1]": (
        lambda net, x: net.moments((x + 1) / 2), sigmoid, ("encode", "decode"),
        {"pixels": "-1..1"},
    ),
    "0 to 255": (
        lambda net, x: net.moments(x / 255), sigmoid, ("encode", "decode"), {"pixels": "0..255"},
    ),
    "normalised": (
        lambda net, x: net.moments(x * 0.25 + 0.5), sigmoid, ("encode", "decode"),
        {"offset": (0.5,), "scale_by": (0.25,)},
    ),
    "log sigma": (
        of_sigma(lambda v: v / 2), sigmoid, ("encode", "decode"), {"second": "log_sigma"},
    ),
    "sigma": (
        of_sigma(lambda v: torch.exp(v / 2)), sigmoid, ("q_z", "p_x"), {"second": "sigma"},
    ),
    "variance": (of_sigma(torch.exp), sigmoid, ("encode", "decode"), {"second": "variance"}),
    "before softplus": (
        of_sigma(lambda v: torch.log(torch.expm1(torch.exp(v / 2)))), sigmoid,
        ("encode", "decode"), {"second": "softplus_sigma"},
    ),
    "a list of more": (
        lambda net, x: [*net.moments(x), x], lambda net, z: [sigmoid(net, z), z],
        ("encode", "decode"), {},
    ),
    "halves": (
        lambda net, x: torch.cat(net.moments(x), 1), sigmoid, ("encode", "decode"),
        {"packing": "halves"},
    ),
    "interleaved": (interleaved, sigmoid, ("encode", "decode"), {"packing": "interleaved"}),
    "mappings": (
        lambda net, x: dict(zip(("embedding", "log_covariance"), net.moments(x), strict=True)),
        lambda net, z: {"reconstruction": sigmoid(net, z)}, ("encoder", "decoder"), {},
    ),
    "distributions": (
        lambda net, x: Independent(normal(net, x), 1),
        lambda net, z: Bernoulli(logits=net.logits(z)), ("encode", "decode"), {"output": "logit"},
    ),
    "latent_dist": (
        latent_dist, lambda net, z: SimpleNamespace(sample=sigmoid(net, z)),
        ("encode", "decode"), {},
    ),
}  # fmt: skip


def imported(
    foreign: Any, likelihood: str = "bernoulli_grey", latent=(D,), **wiring: Any
) -> ImportedVAE:
    """A foreign model through its program, as JSON."""
    declared = {"output": "probability", **wiring}
    told = Wiring(IMAGE, likelihood, latent, **declared)
    encode, decode = adapted(foreign, told)
    module = module_of(foreign)
    codes = torch.Size(latent).numel()
    first = trace(module, encode, torch.rand(1, 1, 6, 6), "encode")
    second = trace(module, decode, torch.zeros(1, codes), "decode")
    scale = "none" if "bernoulli" in likelihood else "fixed"
    return ImportedVAE(
        ImportedConfig(IMAGE, latent, likelihood, scale=scale),
        *(Program(json.loads(json.dumps(one.program))) for one in (first, second)),
        {**first.tensors, **second.tensors},
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_gives_the_same_numbers(convention: str) -> None:
    net = Plain().eval()
    encode, decode, names, told = CONVENTIONS[convention]
    model = imported(Offered(net, encode, decode, names), **told)
    x, z = torch.rand(5, 1, 6, 6), torch.randn(5, D)
    with torch.no_grad():
        mu, log_variance = net.moments(x)
        posterior = model.encode(x)
        torch.testing.assert_close(posterior.mean, mu, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            posterior.stddev, torch.exp(log_variance / 2), rtol=1e-4, atol=1e-5
        )
        logit = model.decode(z).base_dist.logits
        torch.testing.assert_close(logit, net.logits(z), rtol=1e-4, atol=1e-5)


def test_a_sigmoid_is_taken_off_exactly() -> None:
    net = Plain().eval()
    net.up[3].bias.data.fill_(200.0)
    model = imported(
        Offered(net, pair, lambda n, z: sigmoid(n, z).flatten(1), ("encode", "decode"))
    )
    z = torch.zeros(1, D)
    assert torch.equal(model.decode(z).base_dist.logits, net.logits(z))


def test_gradients_are_kept_even_where_the_author_turned_them_off() -> None:
    net = Plain().eval()
    model = imported(
        Offered(net, pair, torch.no_grad()(logits), ("encode", "decode")), output="logit"
    )
    z = torch.randn(4, D, requires_grad=True)
    own = torch.autograd.grad(model.decode(z).base_dist.logits.square().sum(), z)[0]
    theirs = torch.autograd.grad(net.logits(z).square().sum(), z)[0]
    assert torch.equal(own, theirs)


def test_a_network_for_one_number_of_rows_is_fed_that_many() -> None:
    net = Plain().eval()

    def only(n: Plain, z: Tensor) -> Tensor:
        return n.up(z).view(ROWS, 1, 6, 6)

    model = imported(Offered(net, pair, only, ("encode", "decode")), output="logit")
    z = torch.randn(70, D)
    torch.testing.assert_close(model.decode(z).base_dist.logits, net.logits(z))


def draws(net: Plain, x: Tensor) -> Any:
    mu, log_variance = net.moments(x)
    return mu + torch.randn_like(mu) * torch.exp(log_variance / 2), log_variance


def branches(net: Plain, x: Tensor) -> Any:
    return net.moments(x) if x.sum() > 3 else net.moments(1 - x)


@pytest.mark.parametrize(
    ("encode", "decode", "told", "said"),
    [
        (draws, sigmoid, {}, "encode draws at random"),
        (branches, sigmoid, {}, "depends on the values of an image"),
        (lambda n, x: n.moments(x)[0], sigmoid, {}, "say by --packing"),
        (lambda n, x: None, sigmoid, {}, "encode returns nothing"),
        (pair, lambda n, z: None, {}, "decode returns nothing"),
        (pair, sigmoid, {"output": "mean_and_log_scale", "likelihood": "gaussian"}, "no scale"),
        (pair, lambda n, z: torch.linalg.svd(n.logits(z))[0], {}, "not among the operators"),
        (pair, sigmoid, {"latent": (D + 1,)}, "decode cannot be traced"),
        (lambda n, x: {"embedding": n.moments(x)[0]}, sigmoid, {}, "no q"),
    ],
)
def test_what_cannot_be_kept_is_said(encode, decode, told: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        imported(Offered(Plain().eval(), encode, decode, ("encode", "decode")), **told)


def test_a_model_without_the_two_functions_is_refused() -> None:
    with pytest.raises(Refused, match="no encode and decode"):
        imported(nn.Linear(2, 2))
