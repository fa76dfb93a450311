"""Batches: what the model sees, from memory and from disk, and in shares; validation in a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import few_digits

from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import ImageData
from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.model.vae import VAE, observe
from vae.processes import Processes
from vae.training.config import TrainConfig
from vae.training.fit import fit
from vae.training.state.batches import Batches, binarize, random_halves
from vae.training.validation import on_device

CPU = torch.device("cpu")
QUICK = TrainConfig(
    hidden=(16,), latent_dim=3, steps=12, batch_size=32, evaluate_every=6, device="cpu"
)
# So little memory that nothing fits.
FROM_DISK = replace(QUICK, data_memory=1e-9)


def grey() -> ImageData:
    """A few images of 256 levels."""
    data = few_digits()
    levels = np.random.default_rng(0).integers(0, 256, (1_797, 1, 8, 8), dtype=np.uint8)
    return replace(data, spec=replace(data.spec, levels=256), read=lambda some: levels[some])


def test_an_epoch_shows_each_image_once() -> None:
    data = few_digits()
    batches = Batches(QUICK, data, CPU)
    epoch = torch.cat([batches.draw().x for _ in range(8)])
    expected = data.read(data.splits.train).reshape(256, -1) / np.float32(16)
    assert sorted(map(tuple, epoch.flatten(1).tolist())) == sorted(map(tuple, expected.tolist()))
    assert not torch.equal(batches.draw().x, epoch[:32])


def test_few_images_are_one_batch() -> None:
    data = few_digits()
    data = replace(data, splits=data.splits._replace(train=data.splits.train[:5]))
    batches = Batches(QUICK, data, CPU)
    assert batches.size == 5 and batches.draw().x.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("data", [few_digits, grey])
def test_a_threshold_is_that_of_scoring(data) -> None:
    data = data()
    config = replace(QUICK, likelihood="bernoulli", binarize="threshold", batch_size=256)
    for memory in (4.0, 1e-9):
        batches = Batches(replace(config, data_memory=memory), data, CPU)
        seen = batches.draw().x.flatten(1)
        expected = observe(config.model(data.spec), data.read(data.splits.train)).flatten(1)
        assert sorted(seen.tolist()) == sorted(expected.tolist())


def test_binarisation_is_fair() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 400_000
    for p in (0.0, 1e-3, 0.25, 0.5, 254 / 255, 1.0):
        x = torch.full((count,), p)
        found = float(binarize(x, random_halves(x.shape, generator)).mean())
        error = 4 * (p * (1 - p) / count) ** 0.5
        assert abs(found - p) <= error, p
    # No two of the four numbers in a draw are alike more often than chance has it.
    halves = random_halves((100_000,), generator).view(-1, 4).double()
    assert abs(float(torch.corrcoef(halves.T)[0, 1])) < 0.03
    assert random_halves((3, 5), generator).shape == (3, 5)


def test_dynamic_binarisation_is_drawn_anew() -> None:
    config = replace(QUICK, likelihood="bernoulli", binarize="dynamic", batch_size=256)
    batches = Batches(config, grey(), CPU)
    one, other = (batches.draw().x for _ in range(2))
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert float(one.mean()) == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(one.sum(0), other.sum(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"input_noise": 0.1},
        {"likelihood": "bernoulli", "binarize": "dynamic"},
        {"likelihood": "bernoulli", "binarize": "threshold"},
    ],
)
def test_what_does_not_fit_into_memory_trains_alike(changes: dict) -> None:
    data, asked = grey(), []

    def read(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return data.read(indices)

    spied = replace(data, read=read)
    near = fit(replace(QUICK, **changes), data, progress=False).model.state_dict()
    far = fit(replace(FROM_DISK, **changes), spied, progress=False).model.state_dict()
    assert all(torch.equal(value, far[name]) for name, value in near.items())
    # After the mean image, of which a large set gives a sample, never more than a batch at once.
    batches = [some for some in asked[1:] if len(some) == 32]
    assert len(batches) >= QUICK.steps
    assert all(np.array_equal(some, np.sort(some)) for some in batches)


@pytest.mark.parametrize("config", [QUICK, FROM_DISK])
def test_shares_make_up_the_batch(config: TrainConfig) -> None:
    config = replace(config, input_noise=0.1, likelihood="bernoulli", binarize="dynamic")
    whole = Batches(config, grey(), CPU)
    shares = [Batches(config, grey(), CPU, Processes(rank, 4)) for rank in range(4)]
    for _ in range(10):
        expected, found = whole.draw(), [share.draw() for share in shares]
        for one, parts in zip(expected, zip(*found, strict=True), strict=True):
            assert torch.equal(one, torch.cat(parts))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 32 images can't be shared by 3 processes"):
        Batches(QUICK, few_digits(), CPU, Processes(0, 3))


@pytest.mark.parametrize("config", [QUICK, FROM_DISK])
def test_a_state_continues_in_the_middle_of_an_epoch(config: TrainConfig) -> None:
    batches = Batches(config, few_digits(), CPU)
    for _ in range(3):
        batches.draw()
    state = {name: value.clone() for name, value in batches.state().items()}
    expected = [batches.draw() for _ in range(9)]
    again = Batches(replace(config, seed=1), few_digits(), CPU)
    again.draw()
    again.load_state(state)
    for one in expected:
        other = again.draw()
        assert torch.equal(one.x, other.x) and torch.equal(one.noise, other.noise)


def test_validation_where_the_model_lies_agrees_with_the_scores() -> None:
    """The path of a GPU, run on the CPU: other draws of the same means."""
    data = open_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(QUICK.model(data.spec)).eval()
    levels = data.read(data.splits.validation)
    found = on_device(model, levels, QUICK, CPU)
    scored = estimate_elbo(see(model, levels), 8)
    assert torch.allclose(found.kl_per_dim, scored.terms.kl_per_dim, atol=1e-5)
    gap = (found.elbo - scored.value).mean()
    error = scored.standard_error.square().mean().sqrt() / len(levels) ** 0.5
    assert abs(float(gap)) < 4 * 2**0.5 * float(error) + 1e-4


def test_validation_looks_at_so_many_images() -> None:
    data, asked = few_digits(), []

    def read(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return data.read(indices)

    fit(replace(QUICK, validation_images=7), replace(data, read=read), progress=False)
    assert any(np.array_equal(some, data.splits.validation[:7]) for some in asked)
    assert not any(set(data.splits.validation[7:]) & set(some) for some in asked)


def test_test_images_choose_nothing() -> None:
    data = few_digits()
    data = replace(data, splits=data.splits._replace(train=data.splits.train[:4]))
    config = replace(
        QUICK, warmup_steps=2, steps=80, evaluate_every=8, learning_rate=0.02, ema=0.0
    )
    # Learnt by heart: what is best on validation comes early, and the end is kept all the same.
    assert fit(config, data, progress=False).best_step < 80
    kept = fit(config, replace(data, validation_chooses=False), progress=False)
    assert kept.best_step == 80
