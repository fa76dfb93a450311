"""Elboscope's entry point: ``streamlit run app.py``, or ``python -m vae app``."""

import os
from pathlib import Path

# Before torch loads its threads: those that wait must leave the cores to other visitors and to
# training. vae/cli/company.py says why; a server's threads are never alone for long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import streamlit as st  # noqa: E402

import vae  # noqa: E402
from vae.ui.errors import report  # noqa: E402
from vae.ui.server.routes import routes  # noqa: E402

frame = Path(vae.__file__).parent / "ui" / "frame.py"
app = st.App(frame, routes=routes(), on_script_error=report)
