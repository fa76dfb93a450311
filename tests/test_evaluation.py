"""Evaluating a set: the same numbers from one thread and from several, and no trace left."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from vae.elbo.evaluation import statistics_of
from vae.model.stored import Reference


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def statistics(model, rows: np.ndarray, read=None) -> Reference:
    which = Reference(rows, np.zeros(len(rows), np.uint8), rows, *[None] * 8)
    reader = read or (lambda some: model.reference.levels[rows[some]])
    return statistics_of(model.model, reader, which, 4, 8, progress=False)


def test_threads_and_parts_change_no_number(checkpoint, two_threads):
    model, rows = checkpoint("digits-10d"), np.arange(70)
    torch.set_num_threads(1)
    alone = statistics(model, rows)
    torch.set_num_threads(2)
    seen = set()

    def read(some: np.ndarray) -> np.ndarray:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return model.reference.levels[rows[some]]

    together = statistics(model, rows, read)
    for name, one, other in zip(Reference._fields, alone, together, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    # The parts were computed by threads of their own, each by itself.
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2


def test_what_a_thread_raises_ends_the_evaluation(checkpoint, two_threads):
    def read(some: np.ndarray) -> np.ndarray:
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        statistics(checkpoint("digits-10d"), np.arange(70), read)
    assert torch.get_num_threads() == 2


def test_one_image_is_enough(checkpoint):
    one = statistics(checkpoint("digits-10d"), np.arange(1))
    assert one.elbo.shape == (1,) and np.isfinite(one.elbo).all()
