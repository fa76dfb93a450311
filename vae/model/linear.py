r"""Fully connected layers, and which of two libraries multiplies their matrices.

On a CPU torch takes float32 products from Intel's MKL, which leaves the 512-bit units of other
makers' processors unused. oneDNN, which torch brings too and uses for convolutions, doesn't: on
AMD's fifth generation of EPYC it takes half the time. Both compute in float32; they add in
another order, so the last bits differ.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "onednn_pays", "use_onednn"]

# No other program's noise makes a library that is as fast look half as fast again, nor one that
# is twice as fast look slower than this: the answer is the same each time.
_GAIN = 1.5
_PROBES = 12


class Linear(nn.Linear):
    """As torch's, with weights of the same names, but may have its products from oneDNN."""

    by_onednn = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps features :math:`(B, F)` to :math:`(B, F')`."""
        if self.by_onednn:
            return _ByOneDNN.apply(x, self.weight, self.bias)
        return super().forward(x)


def use_onednn(module: nn.Module, whether: bool = True) -> None:
    """Makes all fully connected layers of a float32 module on the CPU use oneDNN, or not."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.by_onednn = whether


@functools.cache
def onednn_pays() -> bool:
    """Whether oneDNN is clearly the faster one here; tried once, in a twentieth of a second."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.ones(128, 512), torch.ones(512, 512), torch.ones(512)
    try:
        with torch.no_grad():
            # In turns, and the best of each: a shared machine has slow moments.
            turns = [
                (_seconds(F.linear, x, weight, bias), _seconds(_affine, x, weight, bias))
                for _ in range(_PROBES)
            ]
    except (AttributeError, RuntimeError):  # torch promises nobody that it has this operator
        return False
    usual, other = (min(seconds) for seconds in zip(*turns, strict=True))
    return usual > _GAIN * other


def _seconds(product: Callable[..., Tensor], *arguments: Tensor) -> float:
    start = time.perf_counter()
    product(*arguments)
    return time.perf_counter() - start


def _affine_on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _shape_of_affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(len(x), len(weight))


# An operator of its own, because the compiler takes oneDNN's for one whose weights never change;
# not by `custom_op`, whose first call imports a second's worth of the compiler. Once a process:
# a server that is worked on loads its modules again.
if not hasattr(torch.ops.elboscope, "affine"):
    torch.library.define(
        "elboscope::affine", "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor"
    )
    torch.library.impl("elboscope::affine", "cpu", _affine_on_cpu)
    torch.library.register_fake("elboscope::affine", _shape_of_affine)
_affine = torch.ops.elboscope.affine.default


class _ByOneDNN(torch.autograd.Function):
    r""":math:`x W^\top + b`, and its gradient by the same operator."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        context.save_for_backward(x, weight)
        return _affine(x, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # noqa: ANN401
        x, weight = context.saved_tensors
        # Pixels ask for no gradient.
        of_x = _affine(gradient, weight.t()) if context.needs_input_grad[0] else None
        return of_x, _affine(gradient.t(), x.t()), gradient.sum(0)
