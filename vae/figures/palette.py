"""One colour for each quantity, everywhere; each with 3:1 or more on white and on #10141B.

The five differ by a colour distance of 28 or more for normal, deutan and protan eyes. Colour never
carries a meaning alone: every mark has a label or a shape besides.
"""

from __future__ import annotations

__all__ = [
    "CLASSES",
    "ELBO",
    "EVIDENCE",
    "EXPECTED_LOG_LIKELIHOOD",
    "HAIRLINE",
    "KL",
    "PRIOR",
    "SEQUENTIAL",
    "tex",
]

EXPECTED_LOG_LIKELIHOOD = "#0C51F2"
KL = "#F2510C"
ELBO = "#C162D9"
EVIDENCE = "#29A668"
PRIOR = "#7C8798"

# Also the theme's list (.streamlit/config.toml): 3:1 on both grounds.
CLASSES = (
    "#0070C8", "#E86898", "#507800", "#9888C8", "#C88068",
    "#38A098", "#984890", "#A89010", "#506868", "#786048",
)  # fmt: skip

# Seen on both grounds, quiet on both.
HAIRLINE = "rgba(124, 135, 152, 0.35)"

# Perceptually even, readable in grey: Plotly's copy of matplotlib's viridis family.
SEQUENTIAL = "Viridis"


def tex(colour: str, formula: str) -> str:
    """Colours a part of a LaTeX formula like its quantity's marks in charts."""
    return rf"\textcolor{{{colour}}}{{{formula}}}"
