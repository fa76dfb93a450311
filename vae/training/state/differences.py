"""What sets a resumed run apart from the one that was begun: refused, unless it is forced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

import vae
from vae.data.sets.image_data import same_images
from vae.model.config import ModelConfig
from vae.training.config import TrainConfig

__all__ = ["Changed", "changes", "departures"]

# What a resumed run may change: words for people, and the machine.
_FREE = ("title", "description", "device")
# What a saved state belongs to: other weights, other images, numbers drawn already.
_FIXED = {field.name for field in fields(ModelConfig)} | {
    "data", "image_size", "image_width", "image_channels", "keep_copies_together", "fit", "bits",
    "allow_tiff", "seed",
}  # fmt: skip


class Changed(ValueError):
    """Raised when a run can't be resumed, because it isn't the same run."""


def departures(
    facts: Mapping[str, Any], config: TrainConfig, images: Mapping[str, Any], force: bool = False
) -> list[str]:
    """What differs from the run that was begun, where it may go on nevertheless.

    Args:
        facts: Those of the saved state.
        config: The run that is to go on.
        images: Its images, as :meth:`vae.data.sets.image_data.ImageData.facts` records them.
        force: Whether another config, or another version of this package, may go on.

    Returns:
        What differs, in words; another version of torch among it, which needs no force.

    Raises:
        Changed: If something differs that wasn't forced, or can't be; the message names it.
    """
    differing = changes(facts["config"], asdict(config))
    fixed = [words for words in differing if words.split(" ", 1)[0] in _FIXED]
    if "data" not in facts:
        differing.append("the images were not recorded and may be others")
    elif not fixed and not same_images(facts["data"], images):
        then, now = facts["data"]["count"], images["count"]
        counts = f"{then:,} then, {now:,} now" if then != now else f"{now:,} then and now"
        raise Changed(
            f"the images, or their order, are not those that the run was begun with ({counts}), "
            "so images that were held out would be trained on; restore them, or start anew with "
            "--overwrite."
        )
    if facts["elboscope"] != vae.__version__:
        differing.append(f"Elboscope was {facts['elboscope']} and is {vae.__version__}")
    if fixed and force:
        raise Changed(
            f"even --force can't go on with another network, other data or another seed: "
            f"{'; '.join(fixed)}. Start anew with --overwrite."
        )
    if differing and not force:
        forced = "" if fixed else ", --force to go on nevertheless"
        raise Changed(
            f"this isn't the run that was begun there: {'; '.join(differing)}. Pass what it was "
            f"begun with{forced}, or --overwrite to start anew."
        )
    if facts["torch"] != torch.__version__:
        differing.append(f"torch was {facts['torch']} and is {torch.__version__}")
    return differing


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, in words; lists and tuples are the same here."""
    return [
        f"{name} was {_plain(before.get(name))} and is {_plain(after.get(name))}"
        for name in {**before, **after}
        if name not in _FREE and _plain(before.get(name)) != _plain(after.get(name))
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
