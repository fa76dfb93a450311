r"""Latent arithmetic: from one group's mean code to another's, applied to any code.

References:
    | Deep Feature Consistent Variational Autoencoder (Hou et al., 2017), section 4.4,
    | https://arxiv.org/abs/1610.00291
"""

from __future__ import annotations

import numpy as np

__all__ = ["group_direction", "shifted"]


def group_direction(mu: np.ndarray, minus: np.ndarray, plus: np.ndarray) -> np.ndarray:
    r"""The way from one group's mean code to another's.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        minus: Positions of the group to leave, with shape :math:`(A,)`.
        plus: Positions of the group to reach, with shape :math:`(B,)`.

    Returns:
        :math:`\overline{\mu}_{plus} - \overline{\mu}_{minus}`, with shape :math:`(D,)`.

    Raises:
        ValueError: If a group is empty.
    """
    if not len(minus) or not len(plus):
        raise ValueError("a group without images has no mean code; choose another group.")
    return mu[plus].mean(0) - mu[minus].mean(0)


def shifted(start: np.ndarray, direction: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    r"""Codes along a direction: :math:`z + a \, d`.

    Args:
        start: The code :math:`z`, with shape :math:`(D,)`.
        direction: The direction :math:`d`, with shape :math:`(D,)`.
        amounts: The amounts :math:`a`, with shape :math:`(F,)`; 0 is the start.

    Returns:
        The codes, with shape :math:`(F, D)`.
    """
    return start + amounts[:, None] * direction
