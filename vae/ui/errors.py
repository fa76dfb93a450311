"""What a person sees when a screen fails: one sentence and a number that leads to the log."""

from __future__ import annotations

import logging
import secrets

import streamlit as st

__all__ = ["report"]

_log = logging.getLogger("elboscope")


def report(error: Exception) -> bool:
    """Logs an unforeseen error and shows a card in its place; the other screens go on."""
    number = secrets.token_hex(3).upper()
    _log.error("error %s on a screen", number, exc_info=error)
    st.error(
        "This screen met an error that nobody foresaw. Reload the page or choose another screen; "
        f"nothing is lost. The details are in the server's log under {number} (E-APP-01)."
    )
    return True
