"""The pieces of the screen that trains: what may be chosen, the form, the runs as they go."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import streamlit as st

from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import DataMissing
from vae.data.sets.published import SETS
from vae.figures.frame import nats
from vae.figures.training import curves, dimension_curves
from vae.paths import app_folder, is_installed
from vae.store.registry import default_root
from vae.training.config import TrainConfig
from vae.training.presets import DEFAULT_PRESET, PRESETS
from vae.training.run import launch
from vae.training.run.run_folder import RunFolder
from vae.ui import access, widgets
from vae.ui.literal import literal
from vae.ui.words import choice_name

__all__ = ["form", "registered_folders", "watch"]

# What each objective, network and likelihood has to say besides its name.
_OF_NETWORK = {
    "mlp": ("hidden",),
    "conv": ("channels", "hidden"),
    "resnet": ("channels", "blocks"),
}
_OF_LIKELIHOOD = {
    "bernoulli": ("binarize",),
    "discretized_logistic": ("spread",),
    "gaussian": ("gaussian_sigma", "sigma"),
}
_OF_OBJECTIVE = {
    "beta": ("beta", "beta_schedule", "beta_steps"),
    "capacity": ("capacity", "capacity_weight", "capacity_steps"),
    "free_bits": ("free_nats", "free_bits_over"),
    "iwae": ("iwae_samples",),
    "beta_tc": ("beta", "tc_estimator"),
    "batch_moment_kl": ("moment_weight",),
}
_OF_FOLDER = (
    "image_size",
    "image_width",
    "image_channels",
    "fit",
    "bits",
    "allow_tiff",
    "keep_copies_together",
)
_LABELS = {
    "fit": "Other proportions",
    "bits": "Bits of a 16-bit grey",
    "allow_tiff": "Read TIFF files",
    "binarize": "Binarise grey pixels",
    "hidden": "Widths of hidden layers",
    "channels": "Widths of convolutions",
    "latent_dim": "Latent dimensions D",
    "beta": "β, the weight of the KL",
    "capacity": "Capacity, nats",
    "free_nats": "Free nats a dimension",
    "iwae_samples": "Draws k",
    "ema": "Decay of averaged weights",
    "max_minutes": "Minutes at most (0: no limit)",
}
_OF_RUN = ("steps", "max_minutes", "batch_size", "learning_rate", "ema", "input_noise", "seed")
_PHASES = {
    "starting": "is starting",
    "training": "is training",
    "interrupted": "was interrupted",
    "diverged": "diverged",
    "reference": "has learned",
}
_FEWEST_FREE = 2**30
_FOLDER = "a folder of your own images"
_NO_FOLDER = (
    "No folder of images is registered. Start the app with `python -m vae app --folders PATH` "
    "and choose it here."
)


def registered_folders() -> dict[str, str]:
    """Folders of images that whoever started the server has registered, by a name for people."""
    texts = json.loads(os.environ.get("ELBOSCOPE_FOLDERS") or "[]")
    paths = [path for path in map(Path, dict.fromkeys(texts)) if path.is_dir()]
    return {f"folder {_tail(path, paths)}": f"folder:{path}" for path in paths}


def _tail(path: Path, paths: Sequence[Path]) -> str:
    """The shortest end of a path that no other one has."""
    for count in range(1, len(path.parts)):
        tail = path.parts[-count:]
        if sum(other.parts[-count:] == tail for other in paths) == 1:
            return "/".join(tail)
    return str(path)


def form() -> None:
    """What to train and how; shows the command and starts it."""
    root = default_root()
    left, right = st.columns([1.6, 1], gap="large")
    with left:
        preset = st.selectbox(
            "Start from",
            list(PRESETS),
            index=list(PRESETS).index(DEFAULT_PRESET),
            key="preset",
            help="A recipe that is known to work; everything below departs from it.",
        )
        config, problem = _config(preset)
    with right:
        name = st.text_input(
            "Name of the model",
            _free_name(root, preset),
            key=f"name-{preset}",
            max_chars=60,
            help="The folder it becomes among the checkpoints.",
        )
        title = st.text_input("Title", "", key=f"title-{preset}", max_chars=80)
        problem = problem or literal(launch.name_problem(root, name))
        if config is not None:
            config = replace(config, title=title or config.title)
            words = launch.command_of(preset, config, _shown_path(root, name))
            st.caption("The same on the command line")
            st.code(launch.shown(words), language="bash", wrap_lines=True)
        busy = next((run.name for run in launch.runs(root) if run.running), "")
        if busy:
            wait = f"{literal(busy)} is training; one run at a time keeps the screens quick."
            problem = problem or wait
        if shutil.disk_usage(root).free < _FEWEST_FREE:
            problem = problem or "Less than 1 GB is free on this disk; make room first."
        if is_installed() and root.resolve().is_relative_to(app_folder().resolve()):
            # They would go with the package that an update replaces.
            problem = problem or (
                "Models of your own need a folder of their own: start the app with "
                "`--checkpoints FOLDER`."
            )
        if problem:
            st.warning(problem, icon=":material/info:")
        if st.button("Train", type="primary", disabled=bool(problem), key="start") and not problem:
            words = launch.command_of(preset, config, root / name)
            if _begun(name, lambda: launch.start(name, words)):
                st.rerun()


def _begun(name: str, begin: Callable[[], None]) -> bool:
    """Starts a run's process and remembers it, or says why it cannot start."""
    try:
        begin()
    except (DataMissing, OSError) as error:
        st.error(literal(f"{name} cannot start. {error}"))
        return False
    st.session_state["just_started"] = (name, time.time())
    return True


def _config(preset: str) -> tuple[TrainConfig | None, str]:
    """The run as the widgets describe it, or why there can be none, as Markdown."""
    base = PRESETS[preset]
    data_names = _data_names()
    shown = next((text for text, name in data_names.items() if name == base.data), "digits")
    data = data_names[
        st.selectbox(
            "Images", list(data_names), list(data_names).index(shown), key=f"data-{preset}"
        )
    ]
    values: dict[str, Any] = {"data": data}
    if data == _FOLDER:
        folders = registered_folders()
        chosen = st.selectbox(
            "Folder",
            list(folders),
            key=f"folder-{preset}",
            disabled=not folders,
            placeholder="none is registered",
            help="One that the app was started with: `python -m vae app --folders PATH`.",
        )
        values["data"] = folders.get(chosen, "")
        values |= _fields(base, preset, _OF_FOLDER)
    first, second, third = st.columns(3, gap="medium")
    with first:
        values |= _fields(base, preset, ("network", "latent_dim"))
        values |= _fields(base, preset, _OF_NETWORK[values["network"]])
    with second:
        values |= _fields(base, preset, ("likelihood",))
        values |= _fields(base, preset, _OF_LIKELIHOOD.get(values["likelihood"], ()))
    with third:
        values |= _fields(base, preset, ("objective",))
        values |= _fields(base, preset, _OF_OBJECTIVE.get(values["objective"], ()))
    with st.expander("The run"):
        values |= _fields(base, preset, _OF_RUN)
    # What belongs to a choice that was not made goes back to its default.
    plain = TrainConfig()
    groups = (*_OF_NETWORK.values(), *_OF_LIKELIHOOD.values(), *_OF_OBJECTIVE.values())
    for name in {name for group in groups for name in group} - set(values):
        values[name] = getattr(plain, name)
    if values.get("beta_schedule") == "constant":
        values["beta_steps"] = plain.beta_steps
    if not values["data"]:
        return None, _NO_FOLDER
    try:
        config = replace(base, **values)
        if data in ("digits", "sprites"):
            config.model(open_data(data).spec)
    except (ValueError, DataMissing) as error:
        return None, literal(str(error))
    return config, ""


def _data_names() -> dict[str, str]:
    """What can be trained on, by a name for people."""
    names = {"digits": "digits", "sprites": "sprites"}
    for name, published in SETS.items():
        if not published.missing:
            names |= {name: name, f"{name}, all of its training images": f"{name}:full"}
    return names | {_FOLDER: _FOLDER}


def _fields(base: TrainConfig, preset: str, names: Sequence[str]) -> dict[str, Any]:
    """Widgets for some fields of the config, by their type, with the preset's values."""
    hints, values = get_type_hints(TrainConfig), {}
    for name in names:
        default = getattr(base, name)
        label = _LABELS.get(name, name.replace("_", " ").capitalize())
        common = {"key": f"{name}-{preset}", "help": _help(name)}
        choices = get_args(hints[name])
        if name in ("hidden", "channels"):
            text = " ".join(map(str, default)) if default else ""
            said = st.text_input(label, text, placeholder="to suit the image", **common)
            values[name] = tuple(int(n) for n in re.findall(r"\d{1,6}", said)) or None
        elif isinstance(default, str) and choices:
            values[name] = st.selectbox(
                label, choices, choices.index(default), format_func=choice_name, **common
            )
        elif name == "image_channels":
            values[name] = st.selectbox(label, (1, 3), (1, 3).index(default), **common)
        elif isinstance(default, bool):
            values[name] = st.checkbox(label, default, **common)
        elif name == "image_width":
            values[name] = st.number_input(
                label, 1, 1024, default, placeholder="as high as wide", **common
            )
        elif isinstance(default, int):
            values[name] = int(st.number_input(label, 0, 10_000_000, default, 1, **common))
        else:
            values[name] = st.number_input(label, 0.0, 1e6, float(default), format="%g", **common)
    return values


@lru_cache(maxsize=64)
def _help(name: str) -> str:
    """A field's line in the docstring of the config: one text for command line and screen."""
    text = inspect.getdoc(TrainConfig) or ""
    found = re.search(rf"^    {name}: (.*?)(?=^    \w+: |^\S|\Z)", text, re.M | re.S)
    return " ".join(found.group(1).split()) if found else ""


def _free_name(root: Path, preset: str) -> str:
    number = next(n for n in range(1, 10_000) if not (root / f"my-{preset}-{n}").exists())
    return f"my-{preset}-{number}"


def _shown_path(root: Path, name: str) -> Path:
    """Where the model goes, as it is typed in the project's folder; anywhere, if it is outside."""
    out, project = (root / name).resolve(), app_folder()
    return out.relative_to(project) if out.is_relative_to(project) else out


@st.fragment(run_every=2)
def watch() -> None:
    """The runs as they go, renewed every other second."""
    root = default_root()
    found = launch.runs(root)
    # The form below and the model picker follow what begins and what ends.
    state = [(run.name, run.running) for run in found]
    if st.session_state.setdefault("runs", state) != state:
        st.session_state["runs"] = state
        access.entries.clear()
        st.rerun()
    started, when = st.session_state.get("just_started", ("", 0.0))
    if started and started not in {run.name for run in found}:
        if (root / started / "manifest.json").exists():
            st.success(f"{literal(started)} is finished: choose it in the model picker.")
        elif time.time() - when < 30:
            st.info(f"{literal(started)} is starting …")
        else:
            said = launch.last_words(started) or "It left no message."
            st.error(f"{literal(started)} ended before it began.")
            st.code(said, language=None, wrap_lines=True)
    if not found and not started:
        st.caption("No run yet. It goes on when this page is closed, and is found here again.")
    for run in found:
        _show(root, run)


def _show(root: Path, run: launch.Run) -> None:
    status = run.status
    phase = status.get("phase", "")
    if phase in ("starting", "training", "reference") and not run.running:
        phase = "interrupted"
    step, steps = int(status.get("step") or 0), int(status.get("steps") or 0)
    with st.container(border=True):
        said = literal(str(status.get("message") or ""))
        st.markdown(f"**{literal(run.name)}** {literal(_PHASES.get(phase, phase))}. {said}")
        if steps:
            speed = status.get("images_per_second") or 0
            st.progress(
                min(1.0, step / steps), f"Step {step:,} of {steps:,}, {speed:,.0f} images/s"
            )
        best, chooses = status.get("best_elbo"), status.get("chooses", True)
        if best is not None:
            what = "Best validation ELBO so far" if chooses else "Validation ELBO"
            st.markdown(
                f"{what}: **{nats(best, 2)} nats**, at step {int(status.get('best_step') or 0):,}."
            )
        history = RunFolder(root / run.name).history()
        if history:
            columns = st.columns(4, gap="medium")
            for column, key in zip(columns, ("elbo", "rate", "distortion"), strict=False):
                with column:
                    last = history[-1]["validation"][key]
                    widgets.chart(
                        curves(history, key),
                        f"{key} by step on training and validation images, {last:.2f} nats now",
                        key=f"curve-{key}-{run.name}",
                    )
            with columns[3]:
                widgets.chart(
                    dimension_curves(history),
                    "KL of each latent dimension by step",
                    key=f"curve-kl-{run.name}",
                )
            solid = (
                "validation images, by which the best weights are chosen"
                if chooses
                else "validation images, which choose nothing: the last weights are kept"
            )
            st.caption(
                f"Solid: {solid}. Dotted: the mean over training steps since the evaluation "
                "before. The ELBO is the true one, β = 1."
            )
        if run.running and st.button("Stop and save", key=f"stop-{run.name}"):
            launch.stop(root, run.name)
        if run.resumable and st.button("Resume", key=f"resume-{run.name}"):
            _begun(run.name, lambda: launch.resume(root, run.name))
