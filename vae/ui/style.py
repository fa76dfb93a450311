"""The few lines of CSS that Streamlit's theme has no setting for."""

from __future__ import annotations

from vae.figures import palette

__all__ = ["STYLE", "quantity"]

STYLE = f"""<style>
[data-testid="stMainBlockContainer"] {{ padding-left: clamp(1rem, 3vw, 3rem);
  padding-right: clamp(1rem, 3vw, 3rem); max-width: 96rem; }}
.elb-lead {{ font-size: 1.2rem; line-height: 1.45; max-width: 62rem; margin: 0 0 .5rem;
  text-wrap: pretty; }}
.elb-lead b {{ font-variant-numeric: tabular-nums; font-weight: 650; }}
.elb-badges {{ margin: 0 0 .35rem; display: flex; flex-wrap: wrap; gap: .35rem .5rem; }}
.elb-badges span, .elb-badges summary {{ font-size: .8125rem; line-height: 1.35;
  padding: .1rem .6rem; opacity: .85;
  border: 1px solid {palette.HAIRLINE}; border-radius: .8rem; }}
.elb-badges .elb-warning {{ opacity: 1; border-color: {palette.KL}; font-weight: 600; }}
.elb-badges details {{ position: relative; }}
.elb-badges summary {{ cursor: help; list-style: none; text-decoration: underline dotted;
  text-underline-offset: .2em; }}
.elb-badges summary::-webkit-details-marker {{ display: none; }}
.elb-badges summary:focus-visible {{ outline: 2px solid {palette.ELBO}; outline-offset: 2px; }}
.elb-badges details p {{ position: absolute; z-index: 9; top: calc(100% + .3rem); left: 0;
  width: min(22rem, 80vw); margin: 0; padding: .6rem .8rem; font-size: .875rem; line-height: 1.4;
  background: var(--st-background-color, Canvas); color: inherit;
  border: 1px solid {palette.HAIRLINE}; border-radius: .4rem; }}
.elb-picture {{ margin: 0; width: 100%; }}
.elb-picture img {{ width: 100%; display: block; image-rendering: pixelated;
  border: 1px solid {palette.HAIRLINE}; }}
.elb-picture figcaption {{ font-size: .875rem; opacity: .8; margin-top: .35rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.elb-gallery {{ display: grid; gap: .6rem; }}
.elb-thumbs {{ align-items: start; }}
.elb-thumbs button {{ all: unset; cursor: pointer; box-sizing: border-box; width: 100%;
  border-radius: 3px; outline: 2px solid transparent; outline-offset: 2px; }}
.elb-thumbs button:hover, .elb-thumbs button:focus-visible {{ outline-color: {palette.ELBO}; }}
.elb-thumbs button[aria-pressed="true"] {{ outline-color: currentColor; }}
.elb-thumbs img {{ width: 100%; display: block; image-rendering: pixelated;
  border: 1px solid {palette.HAIRLINE}; }}
.elb-thumbs span {{ font-size: .875rem; opacity: .8; line-height: 1.3; white-space: pre-line;
  display: block; font-variant-numeric: tabular-nums; }}
.elb-line {{ margin: 0; font-variant-numeric: tabular-nums; }}
.elb-line small {{ opacity: .75; }}
.elb-sums {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%;
  max-width: 26rem; }}
.elb-sums td {{ padding: .3rem 0; border-bottom: 1px solid {palette.HAIRLINE}; }}
.elb-sums td:last-child {{ text-align: right; white-space: nowrap; padding-left: .75rem; }}
@media (max-width: 640px) {{ .katex-display > .katex {{ white-space: normal; }}
  .katex-display .base {{ margin: .2rem 0; }}
  .elb-gallery {{ grid-template-columns: repeat(5, 1fr) !important; }}
  .elb-thumbs {{ grid-template-columns: repeat(3, 1fr) !important; }}
  .elb-table :is(th, td):not(:last-child) {{ padding-right: .4rem; }}
  .elb-lead {{ font-size: 1.1rem; }} }}
.elb-scroll {{ overflow-x: auto; }}
.elb-table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
.elb-table th {{ font-weight: 400; text-align: left; }}
.elb-table thead th {{ font-size: .8125rem; opacity: .8; }}
.elb-table th, .elb-table td {{ padding: .3rem .75rem .3rem 0;
  border-bottom: 1px solid {palette.HAIRLINE}; }}
.elb-table td:last-child {{ padding-right: 0; }}
.elb-ladder {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
.elb-ladder th {{ font-weight: 400; text-align: left; white-space: nowrap; }}
.elb-ladder th, .elb-ladder td {{ padding: 0; height: 2.35rem; }}
.elb-ladder tbody th {{ padding-right: .75rem; }}
.elb-ladder :is(td, th):nth-child(3) {{ text-align: right; padding-left: .75rem; }}
.elb-ladder td:nth-child(4) {{ font-size: .8125rem; opacity: .8; padding-left: .3rem; }}
.elb-ladder td:nth-child(n + 3) {{ white-space: nowrap; }}
.elb-ladder td:nth-child(2) {{ position: relative; width: 100%; }}
.elb-ladder tbody td:nth-child(2)::before {{ content: ""; position: absolute; inset: 50% 0 auto;
  border-top: 1px solid {palette.HAIRLINE}; }}
.elb-ladder i {{ position: absolute; font-style: normal; }}
.elb-ladder .line {{ top: 0; bottom: 0; border-left: 1px dashed; }}
.elb-ladder .bar {{ top: calc(50% - 1px); height: 2px; background: currentColor; }}
.elb-ladder .mark {{ top: 50%; width: 12px; height: 12px; margin: -6px; border-radius: 50%; }}
.elb-ladder .exact {{ border-radius: 0; rotate: 45deg; }}
.elb-ladder .part {{ top: calc(50% - 3px); height: 6px; background: {palette.PRIOR}; }}
.elb-ladder .tick {{ top: 0; translate: -50%; }}
.elb-ladder tfoot, .elb-ladder thead {{ font-size: .8125rem; opacity: .8; }}
.elb-ladder tfoot td, .elb-ladder thead th {{ height: 1.4rem; }}
.elb-ladder tfoot td {{ text-align: center; }}
@media (max-width: 640px) {{ .elb-ladder {{ font-size: .875rem; }} }}
.elb-chip {{ display: inline-block; width: .7em; height: .7em; margin-right: .5em;
  border-radius: 2px; vertical-align: baseline; }}
/* The file that a table's own toolbar writes would run formulas in names; ours are disarmed. */
[data-testid="stElementToolbarButton"]:has([aria-label^="Download as CSV"]) {{ display: none; }}
</style>"""

_COLOURS = {
    "ELBO": palette.ELBO,
    "KL": palette.KL,
    "expected log-likelihood": palette.EXPECTED_LOG_LIKELIHOOD,
    "log p(x)": palette.EVIDENCE,
}


def quantity(name: str) -> str:
    """A quantity's name after a chip of its colour, as HTML."""
    colour = next(value for key, value in _COLOURS.items() if name.startswith(key))
    return f'<span class="elb-chip" style="background:{colour}"></span>{name}'
