"""The frame around every screen: navigation, model picker, sample picker, and the link.

This is the script of the app (``app.py`` names it). It runs on every rerun and then runs the
chosen screen. Model and sample live in the URL, so that a link reproduces the view.
"""

from __future__ import annotations

import random
from pathlib import Path

import streamlit as st

from vae.data.sets.image_data import label_text
from vae.figures.frame import nats
from vae.figures.pictures import figure_html
from vae.store.checkpoint import Checkpoint
from vae.store.contents import SPLITS, CheckpointError
from vae.ui import access
from vae.ui.links import remember, shown
from vae.ui.literal import literal
from vae.ui.missing_images import where_images_are
from vae.ui.screens import SCREENS, page_path, unknown_screen
from vae.ui.style import STYLE
from vae.ui.train_gate import training_allowed
from vae.ui.words import ELSEWHERE, OWN_FOLDER, held_out

_DEFAULT_MODEL = "digits-2d"


def main() -> None:
    """Draws the frame and runs the chosen screen."""
    here = Path(__file__).parent
    # Our own files: an icon by name would be fetched from a stranger's server.
    st.set_page_config(page_title="Elboscope", page_icon=here / "mark.svg", layout="wide")
    st.logo(here / "brand.svg", size="large", icon_image=here / "mark.svg")
    st.html(STYLE)
    offered = {
        section: {
            name: title
            for name, title in screens.items()
            # It starts processes, so it is there only where nobody else reaches the server.
            if name != "train" or training_allowed()
        }
        for section, screens in SCREENS.items()
    }
    page = st.navigation(
        {
            section: [
                st.Page(page_path(name), title=title, default=name == "overview")
                for name, title in screens.items()
            ]
            for section, screens in offered.items()
        }
    )
    usable = {name: entry for name, entry in access.entries().items() if not entry.damage}
    with st.sidebar:
        if not usable:
            _explain_emptiness()
        model = _pick_model(list(usable))
        _pick_sample(model)
        for entry in access.entries().values():
            if entry.damage:
                st.caption(
                    f":material/warning: {literal(entry.name)} cannot be opened. "
                    f"{literal(entry.damage)}"
                )
    titles = {name: title for screens in offered.values() for name, title in screens.items()}
    missed = unknown_screen(st.context.url, st.get_option("server.baseUrlPath"), titles)
    if missed is not None:
        st.warning(
            f"There is no screen {shown(missed)}, so {titles['overview']} is shown. There are: "
            f"{', '.join(titles.values())}.",
            icon=":material/link_off:",
        )
    for notice in st.session_state.get("notices", ()):
        st.warning(notice, icon=":material/link_off:")
    page.run()


def _explain_emptiness() -> None:
    st.warning(
        "There is no checkpoint to open yet. Train one into the folder that the app shows, "
        "`python -m vae train digits-2d --out FOLDER/digits-2d` (less than a minute), then reload "
        "this page.",
        icon=":material/model_training:",
    )
    st.stop()


def _pick_model(names: list[str]) -> Checkpoint:
    asked = st.query_params.get("model")
    if asked is not None and asked not in names:
        remember(
            f"The link names a model “{literal(asked[:60])}” that isn't here, so another one is "
            f"shown. There are: {', '.join(map(literal, names))}."
        )
    name = st.selectbox(
        "Model",
        names,
        index=names.index(_DEFAULT_MODEL) if _DEFAULT_MODEL in names else 0,
        key="model",
        bind="query-params",
        on_change=_forget_notices,
        help=f"Every folder of checkpoints/ with a finished model. {OWN_FOLDER}. {ELSEWHERE}",
    )
    try:
        model = access.checkpoint(name)
    except CheckpointError as error:
        st.error(literal(str(error)))
        st.stop()
    st.caption(_card(model))
    return model


def _card(model: Checkpoint) -> str:
    return (
        f"{literal(model.card.data.title)} · D = {model.latent_dim} · {model.likelihood.title} "
        f"· ELBO {nats(model.card.metrics.elbo)} nats"
    )


def _pick_sample(model: Checkpoint) -> None:
    last = model.reference.size - 1
    asked = st.query_params.get("sample")
    usable = asked is None or _is_position(asked, last)
    if not usable:
        remember(
            f"The link names a sample “{literal(asked[:20])}” that this model doesn't have, so "
            f"another one is shown. Samples run from 0 to {last:,}."
        )
    # On a first visit a bad value is taken out of the link before the widget reads it: Streamlit
    # 1.67 fails on a number that overflows.
    bad_link = not usable and "sample" not in st.session_state
    if bad_link:
        del st.query_params["sample"]
    # A model with fewer samples must not find a number beyond its last.
    if st.session_state.get("sample", 0) > last:
        st.session_state["sample"] = last
    sample = st.number_input(
        "Sample",
        min_value=0,
        max_value=last,
        step=1,
        key="sample",
        bind=None if bad_link else "query-params",
        on_change=_forget_notices,
        help=f"One of the held-out images, by its number: {held_out(model)}",
    )
    with st.container(horizontal=True, gap="small"):
        st.button("Previous", on_click=_step, args=(-1, last), width="stretch")
        st.button("Next", on_click=_step, args=(1, last), width="stretch")
        st.button("Random", on_click=_step, args=(None, last), width="stretch")
    image = access.images(model, [sample])
    reference = model.reference
    label = label_text(int(reference.labels[sample]), model.label_names)
    caption = f"Sample {sample}: {label}, a {SPLITS[reference.split[sample]]} image"
    if files := access.files(model):
        caption += f", {files[sample]}"
    if image is None:
        st.caption(f"{literal(caption)}. {where_images_are(model)}")
    else:
        st.html(figure_html(image[0], caption, f"The chosen image, {label}", width=132))


def _is_position(text: str, last: int) -> bool:
    # Nine digits are enough for any reference set, and few enough for int().
    return text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= last


def _step(by: int | None, last: int) -> None:
    _forget_notices()
    if by is None:
        st.session_state["sample"] = random.randint(0, last)
    else:
        st.session_state["sample"] = (st.session_state.get("sample", 0) + by) % (last + 1)


def _forget_notices() -> None:
    st.session_state["notices"] = []


main()
