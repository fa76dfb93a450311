"""Whether this server may train, which means to start processes on its computer."""

from __future__ import annotations

from ipaddress import ip_address

import streamlit as st

__all__ = ["training_allowed"]


def training_allowed() -> bool:
    """Whether this server may train: only where nobody but this computer's users reaches it."""
    hosts = st.get_option("server.allowedHosts") or []
    address = st.get_option("server.address") or ""
    return bool(hosts) and all(_is_loopback(host) for host in [address, *hosts])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
