"""Fully connected layers by either library: the same numbers, and the faster one is taken."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from vae.model import linear as module
from vae.model.linear import Linear, onednn_pays, use_onednn

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN here"
)


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    onednn_pays.cache_clear()
    yield
    onednn_pays.cache_clear()


@needs_onednn
@pytest.mark.parametrize(("batch", "before", "after"), [(128, 784, 400), (7, 5, 3), (1, 1, 1)])
def test_values_and_gradients_are_those_of_exact_arithmetic(
    batch: int, before: int, after: int
) -> None:
    torch.manual_seed(0)
    layer, x = Linear(before, after), torch.randn(batch, before, requires_grad=True)
    pulls = torch.randn(batch, after)
    use_onednn(layer)
    found = layer(x)
    gradients = torch.autograd.grad(found, [x, *layer.parameters()], pulls)

    exact = [value.detach().double() for value in (x, layer.weight, layer.bias)]
    for value in exact:
        value.requires_grad_()
    expected = exact[0] @ exact[1].T + exact[2]
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        gradients, torch.autograd.grad(expected, exact, pulls.double()), strict=True
    ):
        assert torch.allclose(one.double(), other, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_pixels_are_not_asked_for_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(4, 2)
    use_onednn(layer)
    products, product = [], module._affine
    monkeypatch.setattr(module, "_affine", lambda *some: products.append(1) or product(*some))
    layer(torch.ones(3, 4)).sum().backward()
    assert len(products) == 2
    layer(torch.ones(3, 4, requires_grad=True)).sum().backward()
    assert len(products) == 2 + 3


@needs_onednn
def test_layers_go_there_and_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Linear(784, 400), nn.Tanh(), Linear(400, 784))
    x = torch.randn(64, 784)
    before = network(x)
    use_onednn(network)
    assert all(layer.by_onednn for layer in network[::2])
    assert torch.allclose(network(x), before, atol=1e-5)
    use_onednn(network, False)
    assert torch.equal(network(x), before)


def test_its_weights_are_stored_under_the_usual_names() -> None:
    usual, ours = nn.Linear(3, 2), Linear(3, 2)
    ours.load_state_dict(usual.state_dict())
    assert torch.equal(ours(torch.eye(3)), usual(torch.eye(3)))


@pytest.mark.parametrize(
    ("usual", "other", "pays"), [(2e-3, 1e-3, True), (1.4e-3, 1e-3, False), (1e-3, 3e-3, False)]
)
def test_it_pays_where_it_is_clearly_faster_whatever_the_noise(
    monkeypatch: pytest.MonkeyPatch, usual: float, other: float, pays: bool
) -> None:
    # Most turns of each library meet another program.
    late = cycle([0, 5, 9, 0.5, 3])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)

    def seconds(product: Callable[..., Tensor], *_: Tensor) -> float:
        return (other if product is module._affine else usual) * (1 + next(late))

    monkeypatch.setattr(module, "_seconds", seconds)
    assert onednn_pays() is pays


def test_torch_may_lack_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(module, "_affine", missing)
    assert not onednn_pays()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    onednn_pays.cache_clear()
    assert not onednn_pays()


def test_its_module_may_be_loaded_again() -> None:
    assert runpy.run_path(module.__file__)["Linear"] is not Linear
