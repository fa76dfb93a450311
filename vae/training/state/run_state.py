r"""Everything that a run's next step follows from, and how it is saved and taken up again.

Weights, their average, the optimiser's moments, the generator, the place in the epoch, and the
evaluations so far: a resumed run takes, on a CPU, the very steps that it would have taken.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

import vae
from vae.data.sets.image_data import ImageData
from vae.model.vae import VAE
from vae.processes import ALONE, Processes
from vae.training.config import TrainConfig
from vae.training.loss.training_loss import BatchLoss
from vae.training.state.batches import Batches
from vae.training.state.differences import departures
from vae.training.state.packing import Damaged, pack, unpack

__all__ = ["Averages", "RunState", "config_of"]

_LOSSES = 20


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
        self.config, self.device, self.images = config, device, data.facts()
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
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        # As lists: to walk through the modules in each step takes longer than to average.
        self._present, self._average = (
            [*model.parameters(), *model.buffers()] for model in (self.model, self.averaged)
        )
        self._move = get_ema_multi_avg_fn(config.ema)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_elbo, self.best_step = -math.inf, 0
        self.departures: list[str] = []
        self._kl = torch.zeros(config.latent_dim, device=device)
        self._log_likelihood = torch.zeros((), device=device)
        self._images = 0
        self._losses: deque[Tensor] = deque(maxlen=_LOSSES)
        self._norms = torch.zeros((), device=device)

    @torch.no_grad()
    def note(self, outcome: BatchLoss, loss: Tensor, norm: Tensor) -> None:
        """Remembers a step's terms; nothing is read back from the device."""
        self._kl += outcome.kl_per_dim.sum(0)
        self._log_likelihood += outcome.expected_log_likelihood.sum()
        self._images += len(outcome.loss)
        self._losses.append(loss.detach())
        self._norms += norm

    @property
    def finite(self) -> bool:
        """Whether the gradient was finite in every step; the device is waited for."""
        # A sum of norms is finite as long as each of them is.
        return math.isfinite(float(self._norms))

    @torch.no_grad()
    def average(self) -> None:
        """Moves the averaged weights towards the present ones; the first step sets them."""
        if self.step > 1:
            self._move(self._average, self._present, None)
        else:
            torch._foreach_copy_(self._average, self._present)

    def averages(self) -> Averages:
        """The training images' means since the last evaluation."""
        kl = (self._kl / max(1, self._images)).tolist()
        distortion = -float(self._log_likelihood) / max(1, self._images)
        rate = math.fsum(kl)
        return Averages(-distortion - rate, rate, distortion, kl)

    @property
    def has_averages(self) -> bool:
        """Whether any step was taken since the last evaluation."""
        return self._images > 0

    def join_averages(self, processes: Processes) -> None:
        """Makes the means those of all processes' images."""
        self._kl = processes.mean(self._kl)
        self._log_likelihood = processes.mean(self._log_likelihood)

    def reset_averages(self) -> None:
        """Starts the means anew."""
        self._kl.zero_()
        self._log_likelihood.zero_()
        self._images = 0

    def last_losses(self) -> list[float | None]:
        """The losses of the last twenty steps, oldest first; null where not finite."""
        losses = self._loss_tensor().tolist()
        return [value if math.isfinite(value) else None for value in losses]

    def keep_as_best(self, elbo: float) -> None:
        """Keeps the averaged weights of this step."""
        weights = self.averaged.state_dict()
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
        tensors["losses"] = self._loss_tensor()
        facts = {
            "config": asdict(self.config),
            "data": self.images,
            "elboscope": vae.__version__,
            "torch": torch.__version__,
            "step": self.step,
            "seconds": self.seconds,
            "images": self._images,
            "best_step": self.best_step,
            "best_elbo": self.best_elbo if self.best else None,
            "history": self.history,
            "departures": self.departures,
        }
        return pack(tensors, facts)

    def pack_best(self) -> bytes:
        """The best weights as the bytes of a file."""
        return pack(self.best, {"step": self.best_step, "elbo": self.best_elbo})

    def load(self, data: bytes, best: bytes | None, force: bool = False) -> list[str]:
        """Takes up a saved state.

        Args:
            data: The state, as saved.
            best: The best weights, as saved; none where there were none yet.
            force: Whether a changed config may go on, never with other images; see
                :func:`departures`.

        Returns:
            What sets the run apart from the one that was saved, in words.

        Raises:
            Damaged: If a file isn't as it was written.
            Changed: If it belongs to another run; the message names what differs.
        """
        tensors, facts = unpack(data)
        differing = departures(facts, self.config, self.images, force)
        try:
            self._take_up(tensors, facts, best)
        except (KeyError, RuntimeError) as error:
            raise Damaged("another version saved it, in a way that this one can't read") from error
        at = f"resumed at step {self.step}"
        self.departures += [f"{at}: {words}" for words in differing]
        return differing

    def _take_up(
        self, tensors: dict[str, Tensor], facts: dict[str, Any], best: bytes | None
    ) -> None:
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
        self._losses.extend(parts["losses"][""].to(self.device))
        self._images = facts["images"]
        self.step, self.seconds, self.history = facts["step"], facts["seconds"], facts["history"]
        self.departures = facts["departures"]
        if facts["best_elbo"] is not None:
            if best is None:
                raise Damaged("its best weights are missing")
            # Written before the state, so it may be that of a later evaluation; the steps up to
            # there are taken again, and lead to the same weights.
            self.best, kept = unpack(best)
            self.best_elbo, self.best_step = kept["elbo"], kept["step"]

    def _loss_tensor(self) -> Tensor:
        """The last losses, oldest first, with shape (20,) or less."""
        return torch.stack([*self._losses]) if self._losses else torch.empty(0)


def config_of(data: bytes) -> TrainConfig:
    """The config of a saved state.

    Raises:
        ValueError: If it is damaged, or from a version with other fields.
    """
    return TrainConfig.from_dict(unpack(data)[1]["config"])
