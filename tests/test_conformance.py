"""The checks of a model: what they find in known ones, and that each of them can fail."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import WrittenOut, few_digits
from torch import Tensor
from torch.distributions import Independent, Normal

from vae.cli.main import main
from vae.data.spec import ImageSpec
from vae.elbo import conformance
from vae.elbo.conformance import check_model, weight_of_kl
from vae.elbo.seen import Seen, see
from vae.model.config import ModelConfig


def seen_by(checkpoint, name: str, count: int = 200) -> Seen:
    model = checkpoint(name)
    return see(model.model, model.reference.levels[:count])


def of(seen: Seen) -> dict[str, conformance.Check]:
    return {check.id: check for check in check_model(seen)}


@pytest.mark.parametrize(
    ("name", "trained_with", "within"),
    [
        ("digits-2d", 1.0, 0.1),
        ("digits-10d", 1.0, 0.12),
        ("digits-2d-beta-0.1", 0.1, 0.02),
        ("digits-2d-beta-0.3", 0.3, 0.05),
        ("digits-2d-beta-3", 3.0, 0.4),
    ],
)
def test_the_weight_of_the_kl_is_measured(checkpoint, name, trained_with, within) -> None:
    found = weight_of_kl(seen_by(checkpoint, name, 500))
    assert abs(found.value - trained_with) <= within + 3 * found.error
    assert found.error < 0.15 * trained_with


def test_a_collapsed_encoder_tells_nothing(checkpoint) -> None:
    check = of(seen_by(checkpoint, "digits-2d-beta-10"))["weight"]
    assert check.outcome in ("undetermined", "does not hold")


def test_a_mistaken_kl_is_found_out(checkpoint) -> None:
    found = weight_of_kl(seen_by(checkpoint, "digits-binary-2d-batch-moment"))
    assert found.value + 3 * found.error < 0.1


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d"])
def test_all_holds_of_a_plain_model(checkpoint, name: str) -> None:
    found = of(seen_by(checkpoint, name))
    assert {check.outcome for check in found.values()} == {"holds"}


class Plain(WrittenOut):
    """A model in which one thing at a time goes wrong; digits of 4×4 levels."""

    config = ModelConfig(ImageSpec(1, 4, 4, 17), 2, likelihood="gaussian", gaussian_sigma="fixed")

    def __init__(self, fault: str = "") -> None:
        generator = torch.Generator().manual_seed(0)
        self.fault, self.calls = fault, 0
        self.weight = torch.randn(16, 2, generator=generator) / 4

    @property
    def prior(self) -> Independent:
        centre = 3.0 if self.fault == "prior" else 0.0
        return Independent(Normal(torch.full((2,), centre), 1.0), 1)

    def encode(self, x: Tensor) -> Independent:
        mu = (x.flatten(1) - 0.5) @ self.weight
        if self.fault == "batch":
            mu = mu - mu.mean(0)
        if self.fault == "draws":
            self.calls += 1
            mu = mu + 0.01 * self.calls
        if self.fault == "infinite":
            mu = mu / x.flatten(1).sum(1, keepdim=True).clamp_max(1e-3).sub(1e-3)
        if self.fault == "aggregate":
            mu = mu + 4
        sigma = 1.0 if self.fault == "collapsed" else 0.3
        mu = 0 * mu if self.fault == "collapsed" else mu
        return Independent(Normal(mu, torch.full_like(mu, sigma), validate_args=False), 1)

    def decode(self, z: Tensor) -> Independent:
        mean = 0.5 + z @ self.weight.T
        if self.fault == "gradient":
            mean = mean.detach() + 0 * z.sum()
        return Independent(Normal(mean.view(-1, 1, 4, 4), 0.1, validate_args=False), 3)


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("infinite", "finite"),
        ("draws", "deterministic"),
        ("batch", "batch-mates"),
        ("prior", "closed-form"),
        ("gradient", "slope"),
        ("aggregate", "prior"),
        ("collapsed", "active"),
    ],
)
def test_each_check_can_fail(fault: str, failing: str) -> None:
    levels = few_digits().read(np.arange(60))[..., 2:6, 2:6]
    assert of(see(Plain(), levels))[failing].outcome == "holds"
    found = of(see(Plain(fault), levels))
    assert found[failing].outcome == "does not hold"
    assert found[failing].consequence


def test_bounds_that_fall_are_a_fault(checkpoint, monkeypatch) -> None:
    original = conformance.bound_ladder

    def falling(seen: Seen):
        ladder = original(seen)
        return ladder._replace(values=ladder.values[::-1])

    monkeypatch.setattr(conformance, "bound_ladder", falling)
    assert conformance.rising(seen_by(checkpoint, "digits-10d", 4)).outcome == "does not hold"


def test_the_command_prints_and_ends_by_what_it_found(capsys) -> None:
    assert main(["check", "digits-2d", "--strict"]) == 0
    assert "holds" in capsys.readouterr().out
    assert main(["check", "digits-2d-beta-0.1", "--strict", "--json", "--limit", "100"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 100
    weight = next(check for check in document["checks"] if check["id"] == "weight")
    assert weight["outcome"] == "does not hold" and abs(weight["value"] - 0.1) < 0.05
    assert main(["check", "digits-10d", "--limit", "3"]) == 2
