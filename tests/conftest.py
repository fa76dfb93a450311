"""What the tests share: shipped checkpoints, a tiny model, and one whose answers are known."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from browser import CHROMIUM, FLAGS, running_app
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import vae
from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import ImageData, Splits
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.vae import Described
from vae.store.checkpoint import Checkpoint
from vae.training.commit import commit
from vae.training.config import TrainConfig
from vae.training.fit import Fitted, fit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"

# Small models on a busy machine: a second thread mostly waits for its turn.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint() -> Callable[[str], Checkpoint]:
    """Opens a shipped checkpoint by name, once."""
    return cache(lambda name: vae.load(CHECKPOINTS / name))


class Tiny(NamedTuple):
    config: TrainConfig
    data: ImageData
    fitted: Fitted
    path: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A small model of a few digits, trained for 20 steps and committed."""
    config = TrainConfig(
        hidden=(16,), latent_dim=3, steps=20, batch_size=32, evaluate_every=10, draws=4,
        importance_samples=3, device="cpu",
    )  # fmt: skip
    data = few_digits()
    fitted = fit(config, data, progress=False)
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    commit(path, config, data, fitted, "python -m vae train", progress=False)
    return Tiny(config, data, fitted, path)


@cache
def few_digits() -> ImageData:
    data = open_data("digits")
    train, validation, calibration = data.splits
    return replace(data, splits=Splits(train[:256], validation[:20], calibration[:19]))


@pytest.fixture(scope="session")
def odd_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that no shipped one is like, each trained for a few steps.

    ``one``: one latent dimension. ``colour``: colour images without labels, three dimensions.
    ``equal``: images that are all one, three dimensions. ``classes``: 300 classes.
    """
    root, plain = tmp_path_factory.mktemp("odd"), few_digits()
    every = plain.read(np.arange(2))[:1]
    nobody = {"labels_of": lambda rows: np.full(len(rows), -1), "label_names": ()}
    colour = replace(
        plain, name="colours", digest="colours", spec=replace(plain.spec, channels=3),
        read=lambda rows: plain.read(rows) * np.array([1, 0, 1], np.uint8)[:, None, None],
        **nobody,
    )  # fmt: skip
    equal = replace(
        plain, name="equal", digest="equal",
        read=lambda rows: np.repeat(every, len(rows), 0), **nobody,
    )  # fmt: skip
    classes = replace(
        plain, name="classes", labels_of=lambda rows: 7 * rows % 300,
        label_names=tuple(f"class {k}" for k in range(300)),
    )  # fmt: skip
    for name, dims, data in (
        ("one", 1, plain), ("colour", 3, colour), ("equal", 3, equal), ("classes", 2, classes),
    ):  # fmt: skip
        config = TrainConfig(
            hidden=(16,), latent_dim=dims, steps=20, batch_size=32, evaluate_every=10, draws=4,
            importance_samples=0, device="cpu",
        )  # fmt: skip
        fitted = fit(config, data, progress=False)
        commit(root / name, config, data, fitted, "python -m vae train", progress=False)
    return root


class WrittenOut(Described):
    """The face of a model (vae/model/face.py) but for encode and decode, which a test writes."""


class LinearGaussian(WrittenOut):
    r"""A VAE in closed form (probabilistic PCA): :math:`x = W z + b + \sigma \epsilon`.

    Its encoder is the true posterior wherever the columns of :math:`W` are orthogonal; otherwise
    the true posterior is a Gaussian that no diagonal one equals.
    """

    def __init__(self, dims: int, sigma: float = 0.3, orthogonal: bool = True) -> None:
        generator = torch.Generator().manual_seed(dims)
        image = ImageSpec(channels=1, height=4, width=4)
        self.config = ModelConfig(
            image, latent_dim=dims, likelihood="gaussian", gaussian_sigma="fixed", sigma=sigma
        )
        weight = torch.randn(image.pixels, dims, generator=generator, dtype=torch.float64)
        if orthogonal:
            weight = torch.linalg.qr(weight).Q * torch.linspace(0.5, 1.5, dims).double()
        self.weight, self.sigma = weight, sigma
        self.bias = torch.rand(image.pixels, generator=generator, dtype=torch.float64)
        precision = torch.eye(dims).double() + weight.T @ weight / sigma**2
        self.covariance = torch.linalg.inv(precision)

    def encode(self, x: Tensor) -> Distribution:
        mean = self.posterior_mean(x)
        return Independent(Normal(mean, self.covariance.diagonal().sqrt().expand_as(mean)), 1)

    def decode(self, z: Tensor) -> Distribution:
        mean = z.double() @ self.weight.T + self.bias
        mean = mean.reshape(*z.shape[:-1], *self.config.image.shape)
        return Independent(Normal(mean, self.sigma), 3, validate_args=False)

    def posterior_mean(self, x: Tensor) -> Tensor:
        residual = x.flatten(1).double() - self.bias
        return residual @ self.weight @ self.covariance / self.sigma**2

    def log_evidence(self, x: Tensor) -> Tensor:
        noise = self.sigma**2 * torch.eye(len(self.bias)).double()
        marginal = MultivariateNormal(self.bias, self.weight @ self.weight.T + noise)
        return marginal.log_prob(x.flatten(1).double())


@pytest.fixture(scope="session")
def linear_gaussian() -> Callable[..., LinearGaussian]:
    return LinearGaussian


@pytest.fixture
def unlistable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes folders whose path ends so refuse to be listed, as locked ones do for most people."""
    scan = os.scandir

    def lock(end: str) -> None:
        def scandir(path: str):  # noqa: ANN202
            if str(path).endswith(end):
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return lock


def within(value: Tensor, expected: Tensor | float, error: Tensor, errors: float = 4.0) -> bool:
    """Whether sampled numbers lie within so many standard errors of what they estimate."""
    return bool(((value - expected).abs() <= errors * error + 1e-9).all())


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the running app; one for all tests, each a visitor of its own."""
    with running_app() as address:
        yield address


# One a file: while it runs, no other event loop can run in this thread.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A new visitor's window; whatever it asks another server for fails the test."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(30_000)
    strangers = []
    ours = re.compile(r"(https?|wss?)://localhost[:/]|data:|blob:")
    page.on(
        "request",
        lambda request: None if ours.match(request.url) else strangers.append(request.url),
    )
    yield page
    assert strangers == [], "the app asked another server for something"
    context.close()
