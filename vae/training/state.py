r"""Everything that a run's next step follows from, and how it is saved and taken up again.

Weights, their average, the optimiser's moments, the generator, the place in the epoch, and the
evaluations so far: a resumed run takes, on a CPU, the very steps that it would have taken.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vae
from vae.data.datasets import ImageData
from vae.model.vae import VAE
from vae.training.batches import Batches
from vae.training.config import TrainConfig
from vae.training.loss import BatchLoss
from vae.training.packing import Damaged, pack, unpack
from vae.training.processes import ALONE, Processes

__all__ = ["Averages", "Changed", "RunState", "changes", "config_of"]

# What a resumed run may change: words for people, and the machine.
_FREE = ("title", "description", "device")


class Changed(ValueError):
    """Raised when a run can't be resumed, because it isn't the same run."""


class Averages(NamedTuple):
    """Means over the training images since they were last reset, in nats.

    Attributes:
        elbo: One draw's ELBO.
        rate: The KL.
        distortion: Minus the expected log-likelihood.
        kl_per_dim: The KL of each latent dimension.
    """

    elbo: float
    rate: float
    distortion: float
    kl_per_dim: list[float]


class RunState:
    """Creates the state of a run at its start.

    Args:
        config: The run.
        data: The data set.
        device: Where it trains.
        processes: Those that share each batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: ImageData,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.device = config, device
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = VAE(config.model(data.spec))
        self.batches = Batches(config, data, device, processes)
        self.model.decoder.start_at_(self.batches.mean)
        self.model.encoder.centre_at_(self.batches.mean)
        self.model.to(device).train()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type != "mps",
        )
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        )
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_elbo, self.best_step = -math.inf, 0
        self.speed: dict[str, Any] = {}
        self._kl = torch.zeros(config.latent_dim, device=device)
        self._log_likelihood = torch.zeros((), device=device)
        self._since = 0
        self.losses = torch.full((20,), math.nan, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)

    @torch.no_grad()
    def note(self, outcome: BatchLoss, loss: Tensor) -> None:
        """Remembers a step's terms; nothing is read back from the device."""
        self._kl += outcome.kl_per_dim.mean(0)
        self._log_likelihood += outcome.expected_log_likelihood.mean()
        self._since += 1
        self.losses[self.step % len(self.losses)] = loss

    def averages(self) -> Averages:
        """The training images' means since the last evaluation."""
        kl = (self._kl / max(1, self._since)).tolist()
        distortion = -float(self._log_likelihood) / max(1, self._since)
        rate = math.fsum(kl)
        return Averages(-distortion - rate, rate, distortion, kl)

    @property
    def has_averages(self) -> bool:
        """Whether any step was taken since the last evaluation."""
        return self._since > 0

    def join_averages(self, processes: Processes) -> None:
        """Makes the means those of all processes' images."""
        self._kl = processes.mean(self._kl)
        self._log_likelihood = processes.mean(self._log_likelihood)

    def reset_averages(self) -> None:
        """Starts the means anew."""
        self._kl.zero_()
        self._log_likelihood.zero_()
        self._since = 0

    def last_losses(self) -> list[float | None]:
        """The losses of the last twenty steps, oldest first; null where not finite."""
        first = (self.step + 1) % len(self.losses)
        losses = self.losses.roll(-first).tolist()[-max(1, self.step) :]
        return [value if math.isfinite(value) else None for value in losses]

    def keep_as_best(self, elbo: float) -> None:
        """Keeps the averaged weights of this step."""
        weights = self.averaged.module.state_dict()
        self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.best_elbo, self.best_step = elbo, self.step

    @property
    def size(self) -> int:
        """About how many bytes a saved state and its best weights take."""
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        # Weights, their average, two moments, the best; and the rest of the epoch's order.
        return 5 * weights + 8 * len(self.batches.indices) + 2**16

    def pack(self) -> bytes:
        """The state as the bytes of a file; the best weights are kept apart."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, value in self.averaged.state_dict().items():
            tensors[f"averaged.{name}"] = value
        for number, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer.{number}.{name}"] = value
        for name, value in self.batches.state().items():
            tensors[f"batches.{name}"] = value
        tensors["means.kl"] = self._kl
        tensors["means.log_likelihood"] = self._log_likelihood
        tensors["losses"] = self.losses
        facts = {
            "config": asdict(self.config),
            "elboscope": vae.__version__,
            "torch": torch.__version__,
            "step": self.step,
            "seconds": self.seconds,
            "since": self._since,
            "best_step": self.best_step,
            "best_elbo": self.best_elbo if self.best else None,
            "history": self.history,
            "speed": self.speed,
        }
        return pack(tensors, facts)

    def pack_best(self) -> bytes:
        """The best weights as the bytes of a file."""
        return pack(self.best, {"step": self.best_step, "elbo": self.best_elbo})

    def load(self, data: bytes, best: bytes | None) -> None:
        """Takes up a saved state.

        Raises:
            Damaged: If a file isn't as it was written.
            Changed: If it belongs to another run; the message names what differs.
        """
        tensors, facts = unpack(data)
        if differing := changes(facts["config"], asdict(self.config)):
            raise Changed(
                f"this isn't the run that was begun there: {'; '.join(differing)}. Pass what it "
                "was begun with, or --overwrite to start anew."
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            room, _, rest = name.partition(".")
            parts.setdefault(room, {})[rest] = value
        self.model.load_state_dict(parts["model"])
        self.averaged.load_state_dict(parts["averaged"])
        whole = self.optimizer.state_dict()
        whole["state"] = {}
        for name, value in parts.get("optimizer", {}).items():
            number, _, rest = name.partition(".")
            whole["state"].setdefault(int(number), {})[rest] = value
        self.optimizer.load_state_dict(whole)
        self.batches.load_state(parts["batches"])
        self._kl.copy_(parts["means"]["kl"])
        self._log_likelihood.copy_(parts["means"]["log_likelihood"])
        self.losses.copy_(parts["losses"][""])
        self._since = facts["since"]
        self.step, self.seconds, self.history = facts["step"], facts["seconds"], facts["history"]
        self.speed = facts["speed"]
        if facts["best_elbo"] is not None:
            if best is None:
                raise Damaged("its best weights are missing")
            # Written before the state, so it may be that of a later evaluation; the steps up to
            # there are taken again, and lead to the same weights.
            self.best, kept = unpack(best)
            self.best_elbo, self.best_step = kept["elbo"], kept["step"]


def config_of(data: bytes) -> TrainConfig:
    """The config of a saved state.

    Raises:
        ValueError: If it is damaged, or from a version with other fields.
    """
    return TrainConfig.from_dict(unpack(data)[1]["config"])


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two configs, in words; lists and tuples are the same here."""
    return [
        f"{name} was {_plain(before.get(name))} and is {_plain(after.get(name))}"
        for name in {**before, **after}
        if name not in _FREE and _plain(before.get(name)) != _plain(after.get(name))
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
