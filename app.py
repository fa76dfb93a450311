"""Elboscope's entry point: ``streamlit run app.py``, or ``python -m vae app``."""

from pathlib import Path

import streamlit as st

from vae.ui.errors import report

app = st.App(Path(__file__).parent / "vae" / "ui" / "frame.py", on_script_error=report)
