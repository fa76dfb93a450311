r"""Two-dimensional pictures of a latent space that has more dimensions.

References:
    | Visualizing Data using t-SNE (van der Maaten & Hinton, 2008),
    | https://www.jmlr.org/papers/v9/vandermaaten08a.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vae.explore.lattice import Plane

__all__ = ["TSNE_LEAST", "TSNE_MOST", "Principal", "perplexity", "principal_axes", "tsne", "vary"]

TSNE_LEAST, TSNE_MOST = 4, 3_000
_ROUNDS, _STEPS = 4, 250


class Principal(NamedTuple):
    r"""The two directions in which codes vary most.

    Attributes:
        mean: The mean code, with shape :math:`(D,)`.
        directions: Unit vectors, the first one first, with shape :math:`(2, D)`.
        shares: Their shares of the variance of all codes, with shape :math:`(2,)`.
    """

    mean: np.ndarray
    directions: np.ndarray
    shares: np.ndarray

    def plane_through(self, code: np.ndarray) -> Plane:
        r"""The plane along the two directions that holds a code, with shape :math:`(D,)`.

        Its (0, 0) is where the mean code is seen, so that it doesn't move with the code.
        """
        beside = code - self.mean
        beside = beside - self.directions.T @ (self.directions @ beside)
        return Plane(self.mean + beside, *self.directions)


def vary(mu: np.ndarray) -> bool:
    """Whether codes (N, D) differ by more than the rounding of an encoder in 32 bits."""
    return bool(np.ptp(mu, axis=0).max() > 1e-6 * max(1.0, float(np.abs(mu).max())))


def principal_axes(mu: np.ndarray) -> Principal:
    r"""Principal component analysis of posterior means.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`, :math:`N, D \ge 2`.

    Returns:
        The first two directions; each points to where its largest entry is positive.

    Raises:
        ValueError: If the codes are equal, so that they vary in no direction.
    """
    if not vary(mu):
        raise ValueError("codes that are all equal vary in no direction.")
    mean = mu.mean(0)
    values, vectors = np.linalg.eigh(np.cov(mu, rowvar=False, bias=True))
    directions = vectors[:, :-3:-1].T
    largest = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]
    return Principal(mean, directions, values[:-3:-1] / values.sum())


def perplexity(count: int) -> float:
    """About how many neighbours t-SNE weighs for each of so many codes: 30 where it can."""
    return min(30.0, (count - 1) / 3)


def tsne(
    mu: np.ndarray, seed: int = 0, report: Callable[[int, int], None] | None = None
) -> np.ndarray:
    r"""Lays codes out so that near ones stay near (t-SNE); distances and sizes mean nothing.

    scikit-learn reports no progress, so its optimiser is called in rounds, each of which starts
    where the last one ended; only the first one exaggerates.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`, :math:`4 \le N`.
        seed: The seed.
        report: Called with the steps done and the steps in all.

    Returns:
        Places, centred and scaled to a standard deviation of 1, with shape :math:`(N, 2)`.

    Raises:
        ValueError: If there are too many codes, too few, or only equal ones.
    """
    from sklearn.manifold import TSNE

    if not TSNE_LEAST <= len(mu) <= TSNE_MOST:
        raise ValueError(f"t-SNE takes {TSNE_LEAST} to {TSNE_MOST} codes, not {len(mu)}.")
    axes = principal_axes(mu)
    start = (mu - axes.mean) @ axes.directions.T
    # As small as scikit-learn's own start, so that the exaggeration can move the groups.
    start = (start / max(float(start[:, 0].std()), 1e-12) * 1e-4).astype(np.float32)
    if report is not None:
        report(0, _ROUNDS * _STEPS)
    for done in range(1, _ROUNDS + 1):
        start = TSNE(
            perplexity=perplexity(len(mu)),
            early_exaggeration=12.0 if done == 1 else 1.0,
            max_iter=_STEPS,
            init=start,
            random_state=seed,
        ).fit_transform(mu.astype(np.float32))
        if report is not None:
            report(done * _STEPS, _ROUNDS * _STEPS)
    start = start.astype(np.float64) - start.mean(0)
    return start / start.std()
