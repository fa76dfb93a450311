"""What a link may say: each value is checked before its widget reads it, and named if refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

__all__ = ["base_path", "choice", "notice", "number", "remember", "shown"]


def base_path() -> str:
    """The path below which the app is served, such as ``/elbo``; empty at the root."""
    path = (st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{path}" if path else ""


def notice(sentence: str) -> None:
    """Says once what a link asked for in vain; the frame goes on saying it until a change."""
    if remember(sentence):
        st.warning(sentence, icon=":material/link_off:")


def remember(sentence: str, where: str = "notices") -> bool:
    """Keeps a sentence about the link until a change; says whether it is new."""
    kept = st.session_state.setdefault(where, [])
    if sentence in kept:
        return False
    kept.append(sentence)
    return True


def shown(text: str) -> str:
    """What a link said, in a sentence: short, and with nothing that Markdown would read."""
    plain = "".join(letter if letter.isalnum() or letter in " .-+," else "·" for letter in text)
    return f"“{plain[:40]}”"


def choice(label: str, options: Sequence[str], key: str, **widget: Any) -> str:  # noqa: ANN401
    """A choice among a few, the first unless the link names another."""
    asked = st.query_params.get(key)
    if asked is not None and asked not in options:
        notice(
            f"The link asks for {key} {shown(asked)}, so “{options[0]}” is taken. There are: "
            f"{', '.join(options)}."
        )
    # A choice that went away with the model or the settings before.
    if st.session_state.get(key, options[0]) not in options:
        st.session_state[key] = options[0]
    return st.segmented_control(
        label, options, default=options[0], required=True, key=key, bind="query-params", **widget
    )


def number(
    label: str,
    low: float,
    high: float,
    value: float,
    key: str,
    **widget: Any,  # noqa: ANN401
) -> float:
    """A number within limits; whole where the limits are."""
    asked = st.query_params.get(key)
    usable = asked is None or _within(asked, low, high, whole=isinstance(value, int))
    if not usable:
        notice(
            f"The link asks for {key} {shown(asked)}, so {value:g} is taken: “{label}” goes from "
            f"{low:g} to {high:g}."
        )
    # A bad value is taken out of the link before the widget reads it: Streamlit 1.67 fails on a
    # number that overflows.
    bad_link = not usable and key not in st.session_state
    if bad_link:
        del st.query_params[key]
    if not low <= st.session_state.get(key, value) <= high:
        st.session_state[key] = value
    return st.number_input(
        label, low, high, value, key=key, bind=None if bad_link else "query-params", **widget
    )


def _within(text: str, low: float, high: float, whole: bool) -> bool:
    try:
        asked = float(text) if len(text) <= 20 else math.nan
    except ValueError:
        return False
    return low <= asked <= high and (not whole or asked.is_integer())
