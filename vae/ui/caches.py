"""Caches whose functions may take a model, or an image as a checkpoint sees it.

A model counts as the same while it holds the same: a key that left it out would go on showing the
old model's numbers after a switch, and the weights alone would mix up two reference sets of one
model.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from vae.elbo.expectation import Elbo
from vae.elbo.seen import Seen
from vae.store.checkpoint import Checkpoint

__all__ = ["cached", "shared"]

_KEYS = {
    Checkpoint: lambda model: model.identity,
    Seen: lambda seen: (seen.model, seen.levels, seen.seed),
    # It stands beside its image, from which the rest follows.
    Elbo: lambda elbo: elbo.draws,
}

# As st.cache_data: each run gets a copy.
cached = partial(st.cache_data, hash_funcs=_KEYS, show_spinner=False)
# As st.cache_resource: all runs have one and the same, so nobody writes into it.
shared = partial(st.cache_resource, hash_funcs=_KEYS, show_spinner=False)
