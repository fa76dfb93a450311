r"""Runs a network in tiles of one fixed number of rows, the last one padded.

A matrix product may sum in another order when the number of rows changes, so the same image can
come out 1e-4 nats apart alone and in a batch (1e-2 for a convolution at 64x64). With one fixed
tile its numbers are the same alone, among 500 others, and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from vae.data.spec import ImageSpec
from vae.elbo.terms import log_likelihood
from vae.model.face import LatentModel

__all__ = [
    "decode_means",
    "decoder_rows",
    "encode_tiled",
    "log_joint",
    "log_sum_exp",
    "map_tiles",
    "node_log_likelihoods",
    "row_sums",
]

_ENCODER_ROWS = 128
# Pictures come in dozens: a smaller tile pads less, and a convolution's buffers stay within the
# caches: of 64x64 pixels 64 at once take half as long again as twice 32.
_PICTURE_ROWS = 32


def decoder_rows(image: ImageSpec) -> int:
    """The number of codes decoded at once: a power of two within the caches, by image size."""
    # Beyond 32×32 the layers' buffers pass 16 MB at 2^19 pixels; the system then hands their
    # memory out anew for every tile, which takes half as long again as the network.
    most = 19 if image.pixels <= 1024 else 18
    rows = 2 ** (most - (image.pixels - 1).bit_length())
    return max(32, min(1024, rows))


def map_tiles(rows: int, count: int, tile: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Applies a function to ``count`` rows, always ``rows`` of them at once.

    Args:
        rows: The fixed number of rows of a tile.
        count: The number of rows in all.
        tile: Maps row numbers, shape :math:`(R,)`, to results :math:`(R, *)`. In the last tile
            the last row is repeated; those results are dropped.

    Returns:
        The results, with shape :math:`(N, *)`.
    """
    parts = []
    for start, indices in _tiles(rows, count):
        parts.append(tile(indices)[: min(rows, count - start)])
    return torch.cat(parts)


def _tiles(rows: int, count: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, max(count, 1), rows):
        yield start, torch.arange(start, start + rows).clamp_(max=max(count - 1, 0))


def row_sums(values: Tensor) -> Tensor:
    r"""Sums along the last axis, each row in an order of its own.

    torch may sum a lone row, or a long one on two threads, in another order than the same row
    among others; NumPy's pairwise sum knows neither neighbours nor threads.

    Args:
        values: Float64 without gradient, with shape :math:`(*, N)`.

    Returns:
        The sums, with shape :math:`(*)`.
    """
    return torch.from_numpy(np.asarray(values.contiguous().numpy().sum(-1)))


def log_sum_exp(values: Tensor) -> Tensor:
    r"""The log of the sum of exponentials along the last axis, by :func:`row_sums`."""
    most = values.amax(-1, keepdim=True)
    return row_sums(torch.exp(values - most)).log() + most[..., 0]


def encode_tiled(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Encodes images in tiles.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`, :math:`B \ge 1`.

    Returns:
        The means and standard deviations of :math:`q(z \mid x)`, float64, each :math:`(B, D)`.
    """

    def tile(rows: Tensor) -> Tensor:
        posterior = model.encode(x[rows])
        return torch.stack((posterior.mean, posterior.stddev), dim=1)

    both = map_tiles(_ENCODER_ROWS, len(x), tile).double()
    return both[:, 0], both[:, 1]


@torch.inference_mode()
def decode_means(model: LatentModel, z: Tensor) -> Tensor:
    r"""Decodes codes in tiles to the mean of :math:`p(x \mid z)`.

    Args:
        model: The model.
        z: The codes, with shape :math:`(N, D)`, :math:`N \ge 1`.

    Returns:
        Images in [0, 1], float32, with shape :math:`(N, C, H, W)`.
    """
    codes = z.to(torch.float32)
    rows = min(_PICTURE_ROWS, decoder_rows(model.image))
    means = map_tiles(rows, len(codes), lambda tile: model.decode(codes[tile]).mean)
    # The mean of a density of real values may step a little outside what can be shown.
    return means.clamp(0, 1)


def node_log_likelihoods(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    r"""The log-likelihood of each image at each of its own codes.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`.
        z: The codes, with shape :math:`(B, S, D)`.

    Returns:
        :math:`\log p(x_b \mid z_{bs})` in nats, float64, with shape :math:`(B, S)`.
    """
    images, draws, dims = z.shape
    codes = z.reshape(-1, dims).to(x.dtype)

    def tile(rows: Tensor) -> Tensor:
        first, last = int(rows[0]) // draws, int(rows[-1]) // draws
        # A tile within one image needs no copy of it for each row.
        images_of = x[first] if first == last else x.index_select(0, rows // draws)
        return log_likelihood(model.decode(codes.index_select(0, rows)), images_of)

    return map_tiles(decoder_rows(model.image), images * draws, tile).reshape(images, draws)


def log_joint(model: LatentModel, image: Tensor, z: Tensor) -> Tensor:
    r""":math:`\log p(x, z)` of one image :math:`(C, H, W)` at codes :math:`(N, D)`, (N,)."""
    return node_log_likelihoods(model, image[None], z[None])[0] + model.prior.log_prob(z)
