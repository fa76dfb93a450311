"""What can be said of a foreign model's wiring; imported without torch, for the command line."""

from __future__ import annotations

from typing import Literal

__all__ = ["Layout", "Output", "Packing", "Pixels", "Second"]

Pixels = Literal["0..1", "-1..1", "0..255"]
Layout = Literal["nchw", "nhwc", "flat"]
Second = Literal["log_variance", "log_sigma", "sigma", "variance", "softplus_sigma"]
Packing = Literal["pair", "halves", "interleaved"]
Output = Literal["probability", "logit", "mean", "mean_and_log_scale"]
