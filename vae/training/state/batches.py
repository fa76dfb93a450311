r"""The batches of a run: which images, in what order, and what the model sees of them.

Images lie on the device as integer levels and are indexed there, so that the loop is limited by
arithmetic; a training set larger than the memory set aside for it is read from disk batch by
batch, one batch ahead of the loop. All noise of a batch is drawn for the whole batch, by its
place in it: each of several processes draws all of it and uses its share.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.data.sets.image_data import ImageData
from vae.processes import ALONE, Processes
from vae.training.config import TrainConfig

__all__ = ["Batch", "Batches", "binarize"]

# The mean image of a set that doesn't fit into memory is that of so many images.
_MEAN_OF = 50_000


class Batch(NamedTuple):
    r"""One process's share of a batch.

    Attributes:
        x: The images as the model sees them, with shape :math:`(B, C, H, W)`.
        noise: Standard normals for the codes, :math:`(B, D)`, or :math:`(B, k, D)` for ``iwae``.
        blur: Noise on the encoder's input, with the shape of ``x``, or 0.
    """

    x: Tensor
    noise: Tensor
    blur: Tensor | float


class Batches:
    """Draws the batches of a run, in an order that its state continues exactly.

    Args:
        config: The run.
        data: The data set; only its training split is read.
        device: Where the batches are needed.
        processes: Those that share each batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: ImageData,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.data, self.device, self.processes = config, data, device, processes
        self.indices = data.splits.train
        self.steps = data.spec.levels - 1
        # A threshold needs to be applied only once, before anything else: one half of the levels.
        self.half = -(-self.steps // 2) if config.binarize == "threshold" else None
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.order = torch.empty(0, dtype=torch.long, device=device)
        self.size = min(config.batch_size, len(self.indices))
        if self.size % processes.count:
            raise ValueError(
                f"a batch of {self.size} images can't be shared by {processes.count} processes: "
                "set batch_size to a multiple of their number."
            )
        self.fits = len(self.indices) * data.spec.pixels <= config.data_memory * 2**30
        if self.fits:
            levels = torch.from_numpy(data.read(self.indices))
            # Whole numbers sum exactly, however many there are.
            self.mean = _mean(levels.sum(0, dtype=torch.int64), len(levels), self.steps)
            self.levels = self._seen(levels).to(device)
        else:
            self.mean = self._sampled_mean()
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
            self._next: tuple[Tensor, Future] | None = None

    def draw(self) -> Batch:
        """Draws the next batch."""
        x = self._levels().to(torch.float32)
        if self.half is None and self.steps > 1:
            x /= self.steps
        if self.config.binarize == "dynamic":
            whole = (self.size, *x.shape[1:])
            x = binarize(x, self.processes.share(random_halves(whole, self.generator)))
        draws = (self.config.iwae_samples,) if self.config.objective == "iwae" else ()
        noise = self._normals((self.size, *draws, self.config.latent_dim))
        blur: Tensor | float = 0.0
        if self.config.input_noise:
            blur = self.config.input_noise * self._normals((self.size, *x.shape[1:]))
        return Batch(x, noise, blur)

    def state(self) -> dict[str, Tensor]:
        """What the next batches follow from."""
        return {"order": self.order.cpu(), "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues where a state was taken."""
        self.order = state["order"].to(self.device)
        self.generator.set_state(state["generator"])
        self._next = None

    def _normals(self, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        return self.processes.share(noise)

    def _levels(self) -> Tensor:
        if len(self.order) < self.size:
            self.order = torch.randperm(
                len(self.indices), generator=self.generator, device=self.device
            )
        batch, self.order = self.order[: self.size], self.order[self.size :]
        batch = self.processes.share(batch)
        return self.levels.index_select(0, batch) if self.fits else self._read(batch)

    def _seen(self, levels: Tensor) -> Tensor:
        """Levels as they are, or 0 and 1 where a threshold makes them so."""
        return levels if self.half is None else (levels >= self.half).to(torch.uint8)

    def _read(self, batch: Tensor) -> Tensor:
        levels = None
        if self._next is not None and torch.equal(self._next[0], batch):
            levels = self._next[1].result()
        ahead = self.processes.share(self.order[: self.size])
        if len(self.order) >= self.size:
            self._next = (ahead, self._reader.submit(self._from_disk, ahead.cpu().numpy()))
        if levels is None:
            levels = self._from_disk(batch.cpu().numpy())
        return levels.to(self.device, non_blocking=True)

    def _from_disk(self, batch: np.ndarray) -> Tensor:
        # In the order of the file, which is how a disk likes to be read.
        places = np.argsort(batch)
        levels = np.empty((len(batch), *self.data.spec.shape), np.uint8)
        levels[places] = self.data.read(self.indices[batch[places]])
        return self._seen(torch.from_numpy(levels))

    def _sampled_mean(self) -> Tensor:
        count = min(len(self.indices), _MEAN_OF)
        some = self.indices[np.linspace(0, len(self.indices) - 1, count).astype(np.int64)]
        total = torch.zeros(self.data.spec.shape, dtype=torch.int64)
        for part in np.array_split(some, max(1, count // 1_000)):
            total += torch.from_numpy(self.data.read(part)).sum(0, dtype=torch.int64)
        return _mean(total, count, self.steps)


def _mean(total: Tensor, count: int, steps: int) -> Tensor:
    return (total.to(torch.float64) / count).to(torch.float32) / steps


def binarize(x: Tensor, halves: Tensor) -> Tensor:
    r"""Makes each pixel 1 with a probability of its value (dynamic binarisation).

    Args:
        x: Images in [0, 1], with shape :math:`(B, C, H, W)`.
        halves: Uniform 16-bit integers of the same shape.

    Returns:
        Images of 0 and 1. A probability is met to 2e-5; 0 and 1 are exact.
    """
    # From -1/2 to 65535/65536 - 1/2: 0 lies below all of them, and 1 above.
    return (halves.to(torch.float32) < x * 65_536 - 32_768).to(x.dtype)


def random_halves(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform 16-bit integers, four from each draw: far cheaper than uniforms or coins."""
    count = int(np.prod(shape))
    if generator.device.type == "mps":
        # Apple's GPUs draw no whole 64-bit integers.
        draw = torch.randint(-(2**15), 2**15, shape, generator=generator, device="mps")
        return draw.to(torch.int16)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:count].view(shape)
