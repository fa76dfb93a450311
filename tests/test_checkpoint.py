"""Checkpoints: round trips, damaged and hostile files, faults and kills at any instant."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.numpy
import torch
from checkpoint_files import path_of

import vae
from vae.data import disk
from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.vae import VAE
from vae.store.checkpoint import load, write
from vae.store.contents import CheckpointError, Reference
from vae.store.registry import default_root, find, scan
from vae.store.target import FILES

ROOT = Path(__file__).parents[1]


def test_a_reference_of_an_older_version_has_no_numerical_errors(tmp_path: Path) -> None:
    arguments = small()
    older = arguments["reference"]._replace(elbo_error=None, log_evidence_error=None)
    write(tmp_path / "older", **{**arguments, "reference": older})
    found = load(tmp_path / "older").reference
    assert np.isnan(found.elbo_error).all() and np.isnan(found.log_evidence_error).all()
    assert np.array_equal(found.elbo_uncertainty, found.elbo_se)


def small(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """The arguments of `write` for a small untrained model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image = ImageSpec(channels=1, height=4, width=4, levels=17)
        model = VAE(ModelConfig(image, **{"hidden": (5,), **changes}))
    rng = np.random.default_rng(seed)
    numbers = {name: rng.standard_normal(6) for name in Reference._fields}
    pairs = {name: rng.standard_normal((6, model.config.latent_dim)) for name in ("mu", "lv")}
    reference = Reference(**numbers)._replace(
        indices=np.arange(6), labels=np.arange(6), split=np.array([0, 0, 0, 1, 1, 1], np.uint8),
        mu=pairs["mu"], log_variance=pairs["lv"],
        levels=rng.integers(0, 17, (6, 1, 4, 4), dtype=np.uint8),
    )  # fmt: skip
    facts = {
        "card": {"title": "Small", "description": ""},
        "command": "python -m vae train",
        "config": {"objective": "elbo"},
        "data": {
            "name": "digits",
            "label_names": ["0", "1"],
            "splits": dict.fromkeys(("train", "validation", "calibration"), {"images": 3}),
        },
        "metrics": {
            **dict.fromkeys(("images", "draws", "importance_samples", "active_units"), 0),
            **dict.fromkeys(("elbo", "elbo_se", "rate", "distortion"), -float(seed)),
        },
        "training": {"seconds": 1.5, "device": "cpu", "best_step": 1, "parameters": 1},
    }
    # The same for every seed, so that checkpoints may share a file.
    history = [{"step": step, "validation": {"elbo": -1.0 / step}} for step in (1, 2)]
    return {"model": model, "reference": reference, "history": history, "facts": facts}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "model", **small())
    return tmp_path / "model"


def listed(path: Path) -> dict[str, str]:
    """By what a file is, the name that the manifest lists it under."""
    files = json.loads((path / "manifest.json").read_text())["files"]
    return {"manifest.json": "manifest.json"} | {
        file: entry.get("name", file) for file, entry in files.items()
    }


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in listed(path).values()}


def remains(path: Path) -> set[str]:
    """What a checkpoint's directory holds besides its files and the lock of their writers."""
    return set(os.listdir(path)) - {*listed(path).values(), ".lock"}


def edit(path: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_file(path: Path, name: str, data: bytes) -> None:
    """Puts other bytes in a file's place and lists them as the right ones, by its plain name."""
    (path / name).write_bytes(data)
    entry = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    edit(path, lambda manifest: manifest["files"].__setitem__(name, entry))


def as_first_written(path: Path) -> Path:
    """Gives the files the plain names that they had in the first checkpoints."""
    for file in FILES:
        replace_file(path, file, path_of(path, file).read_bytes())
    for name in remains(path):
        (path / name).unlink()
    return path


def replace_weights(path: Path, change: Callable[[dict], None], keep: bool = False) -> None:
    data = path_of(path).read_bytes()
    weights = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    change(weights)
    metadata = header["__metadata__"] if keep else None
    replace_file(path, "model.safetensors", safetensors.numpy.save(weights, metadata))


def refusal(path: Path) -> CheckpointError:
    """The error of loading: a stable code and one sentence, without class names or newlines."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    error = caught.value
    assert re.fullmatch(r"E-CKPT-\d\d", error.code)
    assert str(error) == f"{error.message} ({error.code})"
    assert error.message.endswith(".") and not error.message.endswith("..")
    assert "\n" not in error.message and "Traceback" not in error.message
    assert path.name in error.message
    return error


# --- Round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"likelihood": "gaussian", "gaussian_sigma": "optimal", "latent_dim": 3},
        {"likelihood": "bernoulli", "binarize": "dynamic", "network": "conv", "channels": (3, 4)},
        {"spread": "pixel", "hidden": (), "activation": "tanh"},
    ],
)
def test_round_trip(tmp_path: Path, changes: dict) -> None:
    parts = small(3, **changes)
    write(tmp_path / "model", **parts)
    found, model = load(tmp_path / "model"), parts["model"].eval()
    assert found.name == "model" and found.config == model.config
    assert found.history == tuple(parts["history"])
    assert found.label_names == ("0", "1")
    for key, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value)
    for key, value in parts["reference"]._asdict().items():
        stored = getattr(found.reference, key)
        assert stored.dtype == value.dtype and np.array_equal(stored, value)
    x, z = torch.rand(5, 1, 4, 4), torch.randn(5, model.config.latent_dim)
    assert torch.equal(found.encode(x).mean, model.encode(x).mean)
    assert torch.equal(found.encode(x).stddev, model.encode(x).stddev)
    assert torch.equal(found.decode(z).mean, model.decode(z).mean)
    assert not found.model.training
    assert not any(weight.requires_grad for weight in found.model.parameters())
    assert sorted(os.listdir(tmp_path / "model")) == sorted(
        [".lock", "manifest.json", *(one.name for one in found.card.files.values())]
    )
    for file, entry in found.card.files.items():
        data, (stem, _, suffix) = (found.path / entry.name).read_bytes(), file.partition(".")
        assert entry.sha256 == sha256(data).hexdigest() and entry.bytes == len(data)
        assert entry.name == f"{stem}-{entry.sha256[:12]}.{suffix}"
    assert found.weights_sha256 == found.card.files["model.safetensors"].sha256


def test_a_model_without_embedded_images(tmp_path: Path) -> None:
    parts = small()
    parts["reference"] = parts["reference"]._replace(levels=None)
    write(tmp_path / "model", **parts)
    assert load(tmp_path / "model").reference.levels is None


def test_splits_are_found_in_the_reference(path: Path) -> None:
    reference = load(path).reference
    assert reference.size == 6
    assert reference.of_split("validation").tolist() == [0, 1, 2]
    assert reference.of_split("calibration").tolist() == [3, 4, 5]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, **small(5))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_weights_identify_the_whole_model(tmp_path: Path) -> None:
    # The same numbers under another activation are another model.
    for name in ("tanh", "gelu"):
        write(tmp_path / name, **small(0, activation=name))
    assert load(tmp_path / "tanh").weights_sha256 != load(tmp_path / "gelu").weights_sha256


def test_loading_leaves_the_global_generator_alone(path: Path) -> None:
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_relative_path_has_a_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path)
    assert load(".").name == "model"


# --- What stands in the way -------------------------------------------------------------------


def test_nothing_is_replaced_unasked(path: Path) -> None:
    before = contents(path)
    with pytest.raises(FileExistsError, match="exists already"):
        write(path, **small(1))
    assert contents(path) == before
    write(path, **small(1), overwrite=True)
    assert contents(path) != before
    assert [child.name for child in path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["folder", "weights", "file"])
def test_only_a_checkpoint_is_replaced(path: Path, kind: str) -> None:
    # `--out checkpoints --overwrite` with the name forgotten must not cost every checkpoint.
    target = path.parent if kind == "folder" else path.parent / "other"
    if kind == "weights":
        target.mkdir()
        (target / "model.safetensors").write_text("another program's")
    elif kind == "file":
        target.write_text("a diary")
    before = contents(path)
    with pytest.raises(FileExistsError, match="exists already"):
        write(target, **small(1))
    with pytest.raises(FileExistsError, match="is not a checkpoint"):
        write(target, **small(1), overwrite=True)
    assert target.exists() and contents(path) == before


@pytest.mark.parametrize("names", [(), (".run",), (".lock", "model-0123456789ab.safetensors")])
def test_what_holds_no_work_needs_no_leave(tmp_path: Path, names: tuple[str, ...]) -> None:
    # Nothing at all, a run under way, or what the first writer left that was killed.
    (tmp_path / "model").mkdir()
    for name in names:
        (tmp_path / "model" / name).touch()
    write(tmp_path / "model", **small())
    assert load(tmp_path / "model") and remains(tmp_path / "model") == {*names} & {".run"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(path: Path) -> None:
    before = contents(path)
    for folder in (path, path.parent):
        folder.chmod(0o500)
    try:
        for target in (path, path.parent / "new"):
            with pytest.raises(PermissionError):
                write(target, **small(1), overwrite=True)
    finally:
        for folder in (path.parent, path):
            folder.chmod(0o700)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["x" * 256, "file/below"])
def test_an_impossible_place_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write(tmp_path / name, **small())
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_what_no_manifest_lists_is_removed_whoever_left_it(path: Path) -> None:
    other_machine, own = "0123456789ab-1", f"{disk.machine_mark()}-{os.getppid()}"
    left = {
        "model-0123456789ab.safetensors", "history-ba9876543210.jsonl", "reference.safetensors",
        f".manifest.json.tmp-{other_machine}", f".model-0123456789ab.safetensors.tmp-{own}",
    }  # fmt: skip
    kept = {"notes.md", "model-mine.safetensors", "weights.safetensors", ".gitignore"}
    for name in left | kept:
        (path / name).touch()
    for name in (".run", "calibrations"):
        (path / name).mkdir()
    assert load(path)  # a reader removes nothing
    assert remains(path) == {*left, *kept, ".run", "calibrations"}
    write(path, **small(1), overwrite=True)
    assert remains(path) == {*kept, ".run", "calibrations"}


def test_the_plain_names_of_the_first_checkpoints_are_read_and_replaced(path: Path) -> None:
    sound = load(path)
    before = contents(as_first_written(path))
    assert set(os.listdir(path)) == {*FILES, "manifest.json", ".lock"}
    assert load(path).weights_sha256 == sound.weights_sha256 and scan(path.parent)["model"].card
    with pytest.raises(FileExistsError):
        write(path, **small(1))
    assert contents(path) == before
    write(path, **small(1), overwrite=True)
    assert load(path).weights_sha256 != sound.weights_sha256 and not remains(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "name",
    [
        "../sound/{}", "/etc/passwd", "./{}", ".run/{}", "sub/{}", "", ".", "..", "manifest.json",
        "model-000000000000.safetensors", "other.safetensors", "model.safetensors\0", None, 3, [],
        {},
    ],
)  # fmt: skip
def test_a_manifest_names_no_file_but_its_own(path: Path, file: str, name: object) -> None:
    write(path.parent / "sound", **small(1))
    as_first_written(path.parent / "sound")
    for folder in ("sub", ".run"):
        (path / folder).mkdir()
        shutil.copy(path_of(path, file), path / folder / file)
    as_named = name.format(file) if isinstance(name, str) else name
    edit(path, lambda manifest: manifest["files"][file].update(name=as_named))
    assert refusal(path).code == "E-CKPT-03"
    assert scan(path.parent)["model"].damage == str(refusal(path))


# --- Damaged and hostile files ----------------------------------------------------------------


class _Payload:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("payload-ran",)


def _header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def _doubled(data: bytes) -> bytes:
    """The same file with its first key standing there twice."""
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode()
    key, entry = next(iter(json.loads(header).items()))
    return _header(f'{{"{key}":{json.dumps(entry)},{header[1:]}'.encode()) + data[8 + size :]


TENSOR_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a pickle": lambda data: pickle.dumps(_Payload()),
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "a header cut short": lambda data: data[:40],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "trailing bytes": lambda data: data + b"PK\3\4",
    "a huge header": lambda data: (2**63).to_bytes(8, "little") + data[8:],
    "a header as large as can be": lambda data: b"\xff" * 8 + data[8:],
    "no JSON": lambda data: data[:8] + b"!" * (len(data) - 8),
    "no UTF-8": lambda data: data[:8] + b"\xff" * (len(data) - 8),
    "duplicate keys": _doubled,
    "a list for a header": lambda data: _header(b"[]"),
    "null for a header": lambda data: _header(b"null"),
    "no metadata": lambda data: _header(b'{"__metadata__":null}'),
    "deep nesting": lambda data: _header(b"[" * 100_000),
    "an unknown type": lambda data: _header(
        b'{"w":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}0000'
    ),
    "a hole": lambda data: (
        _header(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}') + bytes(8)
    ),
    "an overflow": lambda data: (
        _header(b'{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}')
        + bytes(4)
    ),
    "a wrong shape": lambda data: (
        _header(b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}') + bytes(4)
    ),
    "too many tensors": lambda data: safetensors.numpy.save(
        {f"w{i}": np.zeros(0, np.float32) for i in range(2_001)}
    ),
}


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("damage", TENSOR_DAMAGE)
def test_damaged_tensors(path: Path, damage: str, name: str, listed: bool, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    write(path.parent / "sound", **small(1))
    sound = path_of(path, name).read_bytes()
    data = TENSOR_DAMAGE[damage](sound)
    if listed:
        replace_file(path, name, data)
    else:
        path_of(path, name).write_bytes(data)
    expected = {"E-CKPT-04", "E-CKPT-07"} if listed else {"E-CKPT-03"}
    assert refusal(path).code in expected
    assert not Path("payload-ran").exists()
    entries = scan(path.parent)
    assert set(entries) == {"model", "sound"}
    # A scan looks at sizes, so that it costs no reading; loading finds the rest.
    assert bool(entries["model"].damage) == (not listed and len(data) != len(sound))
    assert not entries["sound"].damage and load(entries["sound"].path)


def _poison(value: float) -> Callable[[dict], None]:
    def change(weights: dict) -> None:
        weights["encoder.head.bias"] = np.full(4, value, np.float32)

    return change


def _rename(weights: dict) -> None:
    for key in list(weights):
        weights[f"module.{key}"] = weights.pop(key)


def _put(key: str, value: np.ndarray) -> Callable[[dict], None]:
    return lambda weights: weights.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_poison(np.nan), "E-CKPT-08", "encoder.head.bias"),
        (_poison(np.inf), "E-CKPT-08", "encoder.head.bias"),
        (_put("encoder.head.bias", np.full(4, 1e300)), "E-CKPT-08", "encoder.head.bias"),
        (_put("encoder.head.bias", np.zeros(3, np.float32)), "E-CKPT-07", "(3,), not (4,)"),
        (lambda w: w.pop("encoder.head.bias"), "E-CKPT-07", "encoder.head.bias is missing"),
        (_put("more", np.zeros(1, np.float32)), "E-CKPT-07", "more is unknown"),
        (_rename, "E-CKPT-07", "is missing"),
        (_put("encoder.head.bias", np.zeros(4, np.int8)), "E-CKPT-07", "int8, not floats"),
        (_put("encoder.head.bias", np.zeros(4, bool)), "E-CKPT-07", "bool, not floats"),
    ],
)
@pytest.mark.parametrize("keep", [True, False], ids=["with config", "without config"])
def test_wrong_weights(path: Path, change: Callable, code: str, said: str, keep: bool) -> None:
    replace_weights(path, change, keep)
    error = refusal(path)
    assert error.code == code and said in error.message


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floats_are_cast(path: Path, dtype: type) -> None:
    replace_weights(path, lambda w: w.update({k: v.astype(dtype) for k, v in w.items()}))
    model = load(path).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.pop("mu"), "E-CKPT-07"),
        (lambda a: a.update(mu=a["mu"][:, :1].copy()), "E-CKPT-07"),
        (lambda a: a.update(elbo=a["elbo"][:5].copy()), "E-CKPT-07"),
        (lambda a: a.update(elbo=a["elbo"].astype(np.float32)), "E-CKPT-07"),
        (lambda a: a.update(indices=a["indices"].astype(np.float64)), "E-CKPT-07"),
        (lambda a: a.update(levels=a["levels"][:, :, :3].copy()), "E-CKPT-07"),
        (lambda a: a.update(elbo=np.full(6, np.nan)), "E-CKPT-08"),
        (lambda a: a.update(mu=np.full((6, 2), np.inf)), "E-CKPT-08"),
    ],
)
def test_wrong_reference(path: Path, change: Callable, code: str) -> None:
    arrays = safetensors.numpy.load(path_of(path, "reference.safetensors").read_bytes())
    change(arrays)
    replace_file(path, "reference.safetensors", safetensors.numpy.save(arrays))
    assert refusal(path).code == code


def _set(*keys: str, to: object) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = to

    return change


CONFIG_DAMAGE = {
    "a million units": _set("model", "hidden", to=[10**6]),
    "a million channels": _set("model", "channels", to=[10**6]),
    "too many layers": _set("model", "hidden", to=[8] * 17),
    "too many dimensions": _set("model", "latent_dim", to=10**6),
    "no dimensions": _set("model", "latent_dim", to=0),
    "half a dimension": _set("model", "latent_dim", to=2.5),
    "a truth for a number": _set("model", "latent_dim", to=True),
    "a text for a number": _set("model", "latent_dim", to="2"),
    "a text for a list": _set("model", "hidden", to="256"),
    "nothing for a list": _set("model", "hidden", to=None),
    "nothing for a number": _set("model", "sigma_floor", to=None),
    "an unknown activation": _set("model", "activation", to="swish"),
    "a list for a choice": _set("model", "network", to=["mlp"]),
    "an unknown field": _set("model", "dropout", to=0.1),
    "a missing field": lambda manifest: manifest["model"].pop("image"),
    "a text for an image": _set("model", "image", to="28x28"),
    "a huge image": _set("model", "image", "height", to=10**6),
    "half a pixel": _set("model", "image", "height", to=4.0),
    "another size": _set("model", "latent_dim", to=3),
    "another data set": _set("model", "image", "levels", to=256),
    "another floor": _set("model", "sigma_floor", to=0.01),
}


@pytest.mark.parametrize("damage", CONFIG_DAMAGE)
def test_damaged_config(path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path.parent / "sound", **small(1))
    edit(path, CONFIG_DAMAGE[damage])
    monkeypatch.setattr(torch.nn.Module, "to_empty", _never)
    assert refusal(path).code == "E-CKPT-05"
    monkeypatch.undo()
    entries = scan(path.parent)
    assert bool(entries["model"].damage) != damage.startswith("another")
    assert load(find("sound", path.parent).path).name == "sound"


def _never(*_: object, **__: object) -> NoReturn:
    raise AssertionError("memory was asked for")


@pytest.mark.parametrize(
    "change",
    [
        _set("model", "latent_dim", to=32),
        _set("model", "image", "channels", to=3),
        _set("model", "hidden", to=[8192] * 16),
    ],
)
def test_a_config_larger_than_its_weights_gets_no_memory(
    path: Path, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the config inside the weights, as other writers may leave it, shapes decide.
    replace_weights(path, lambda weights: None)
    edit(path, change)
    monkeypatch.setattr(torch.nn.Module, "to_empty", _never)
    error = refusal(path)
    assert error.code == "E-CKPT-07" and "don't fit" in error.message


MANIFEST_DAMAGE: dict[str, tuple[str, bytes | Callable[[dict], None]]] = {
    "empty": ("E-CKPT-04", b""),
    "no JSON": ("E-CKPT-04", b"{"),
    "no UTF-8": ("E-CKPT-04", b"\xff\xfe{}"),
    "no object": ("E-CKPT-04", b"[1]"),
    "NaN": ("E-CKPT-04", b'{"format": 1, "metrics": {"elbo": NaN}}'),
    "infinity": ("E-CKPT-04", b'{"format": 1, "metrics": {"elbo": -Infinity}}'),
    "duplicate keys": ("E-CKPT-04", b'{"format": 1, "format": 1}'),
    "a huge number": ("E-CKPT-04", b'{"format": ' + b"9" * 5_000 + b"}"),
    "deep nesting": ("E-CKPT-04", b"[" * 200_000),
    "no format": ("E-CKPT-04", lambda m: m.pop("format")),
    "a text for a format": ("E-CKPT-04", _set("format", to="1")),
    "a truth for a format": ("E-CKPT-04", _set("format", to=True)),
    "a future format": ("E-CKPT-06", _set("format", to=2)),
    "no metrics": ("E-CKPT-04", lambda m: m.pop("metrics")),
    "a list of metrics": ("E-CKPT-04", _set("metrics", to=[])),
    "no draws": ("E-CKPT-04", lambda m: m["metrics"].pop("draws")),
    "no card": ("E-CKPT-04", lambda m: m.pop("card")),
    "no title": ("E-CKPT-04", lambda m: m["card"].pop("title")),
    "a number for a description": ("E-CKPT-04", _set("card", "description", to=3)),
    "a text for a bound": ("E-CKPT-04", _set("metrics", "iwae_bound", to="-90")),
    "a boundless weight": ("E-CKPT-04", _set("config", "beta", to=10**400)),
    "a truth for a weight": ("E-CKPT-04", _set("config", "beta", to=True)),
    "no command": ("E-CKPT-04", lambda m: m.pop("command")),
    "a text for the ELBO": ("E-CKPT-04", _set("metrics", "elbo", to="-90")),
    "no splits": ("E-CKPT-04", _set("data", "splits", to={})),
    "a list of splits": ("E-CKPT-04", _set("data", "splits", to=[])),
    "no device": ("E-CKPT-04", lambda m: m["training"].pop("device")),
    "no data name": ("E-CKPT-04", lambda m: m["data"].pop("name")),
    "a wrong sha256": ("E-CKPT-03", _set("files", "model.safetensors", "sha256", to="0" * 64)),
    "no sha256": ("E-CKPT-03", _set("files", "history.jsonl", "sha256", to=None)),
    "a wrong size": ("E-CKPT-03", _set("files", "model.safetensors", "bytes", to=3)),
    "an unlisted file": ("E-CKPT-03", lambda m: m["files"].pop("model.safetensors")),
}


@pytest.mark.parametrize("damage", MANIFEST_DAMAGE)
def test_damaged_manifest(path: Path, damage: str) -> None:
    write(path.parent / "sound", **small(1))
    code, change = MANIFEST_DAMAGE[damage]
    if callable(change):
        edit(path, change)
    else:
        (path / "manifest.json").write_bytes(change)
    error = refusal(path)
    assert error.code == code
    entries = scan(path.parent)
    if "sha256" not in damage:  # a scan reads manifests and sizes, no other file
        assert entries["model"].card is None and entries["model"].damage == str(error)
    assert entries["sound"].damage == "" and entries["sound"].card.title == "Small"


def _link(path: Path, to: str | Path) -> None:
    path.unlink()
    path.symlink_to(to)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        lambda path: _link(path, "/etc/passwd"),
        lambda path: _link(path, path.name),
        lambda path: _link(path, shutil.copy(path, path.with_suffix(".copy"))),
        _pipe,
        _folder,
    ],
    ids=["missing", "link out", "link to itself", "link to the right file", "pipe", "folder"],
)
def test_only_regular_files_are_opened(path: Path, name: str, change: Callable) -> None:
    write(path.parent / "sound", **small(1))
    change(path / listed(path)[name])
    missing = name == "manifest.json" and not os.path.lexists(path / name)
    error = refusal(path)
    assert error.code in {"E-CKPT-01", "E-CKPT-02", "E-CKPT-03", "E-CKPT-04"}
    entries = scan(path.parent)
    assert set(entries) == ({"sound"} if missing else {"model", "sound"})
    assert missing or entries["model"].damage
    assert not entries["sound"].damage


def test_a_linked_checkpoint_is_replaced_where_it_lies(tmp_path: Path) -> None:
    disk, here = tmp_path / "disk", tmp_path / "checkpoints"
    disk.mkdir()
    here.mkdir()
    write(disk / "model", **small(1))
    link = here / "mine"
    link.symlink_to(disk / "model")
    with pytest.raises(FileExistsError):
        write(link, **small(2))
    write(link, **small(2), overwrite=True)
    assert link.is_symlink() and load(link).name == "mine"
    write(tmp_path / "other", **small(2))
    assert load(link).weights_sha256 == load(tmp_path / "other").weights_sha256
    assert os.listdir(here) == ["mine"] and os.listdir(disk) == ["model"]
    # A disk that is missing for now is not written beside.
    (disk / "model").rename(tmp_path / "away")
    with pytest.raises(FileExistsError, match="not a checkpoint"):
        write(link, **small(2), overwrite=True)


def test_no_file_is_opened_through_a_folder_of_another_kind(tmp_path: Path) -> None:
    # What is no checkpoint is neither listed nor opened: other formats, files, remains.
    for suffix in ("pt", "pth", "ckpt", "pkl", "joblib", "npy"):
        (tmp_path / f"run-{suffix}").mkdir()
        (tmp_path / f"run-{suffix}" / f"model.{suffix}").write_bytes(pickle.dumps(_Payload()))
        assert refusal(tmp_path / f"run-{suffix}").code == "E-CKPT-01"
    write(tmp_path / "model", **small())
    shutil.copytree(tmp_path / "model", tmp_path / ".hidden")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "etc").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to(tmp_path / "another-disk" / "model")
    entries = scan(tmp_path)
    assert list(entries) == ["link", "loop", "lost", "model"]
    # A folder may be linked, which is how checkpoints on another disk are kept at hand.
    assert (
        load(find("link", tmp_path).path).weights_sha256 == load(tmp_path / "model").weights_sha256
    )
    assert all("isn't there" in entries[name].damage for name in ("loop", "lost"))
    for name in ("loop", "file", "pipe", "nowhere"):
        assert refusal(tmp_path / name).code == "E-CKPT-01"
    assert scan(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "name", ["ünï çödé", "with space", "new\nline", "[x](javascript:1)", "x" * 255]
)
def test_any_name_is_just_a_name(path: Path, name: str) -> None:
    path.rename(path.with_name(name))
    (entry,) = scan(path.parent).values()
    assert entry.name == name and not entry.damage
    assert load(find(name, path.parent).path).name == name


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "../model", "model/..", "/etc", "", ".", "..", "model\0", "x" * 5_000],
)
def test_a_forged_name_leads_nowhere(path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="There are: model") as caught:
        find(name, path.parent)
    assert caught.value.code == "E-CKPT-01" and len(str(caught.value)) < 200
    assert find("model", path.parent).path == path


def test_a_folder_of_that_name_comes_before_a_shipped_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELBOSCOPE_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert vae.load("digits-2d").path == ROOT / "checkpoints" / "digits-2d"
    shutil.copytree(path, tmp_path / "digits-2d")
    assert vae.load("digits-2d").path == tmp_path / "digits-2d"
    with pytest.raises(CheckpointError, match="There are: digits-10d, digits-2d"):
        vae.load("nothing")


def test_the_root_follows_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELBOSCOPE_CHECKPOINTS", raising=False)
    assert default_root() == ROOT / "checkpoints"
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(path.parent))
    assert list(scan(default_root())) == ["model"]


# --- Flipped bits and mutated files -----------------------------------------------------------


def flip(data: bytes, bit: int) -> bytes:
    body = bytearray(data)
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    return bytes(body)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(path: Path, name: str) -> None:
    file, rng = path_of(path, name), random.Random(name)
    data = file.read_bytes()
    for _ in range(70):
        file.write_bytes(flip(data, rng.randrange(8 * len(data))))
        assert refusal(path).code == "E-CKPT-03"
    file.write_bytes(data)
    assert load(path)


def test_a_flipped_bit_in_the_manifest_never_changes_the_model(path: Path) -> None:
    data, rng = (path / "manifest.json").read_bytes(), random.Random(0)
    sound = load(path)
    for _ in range(300):
        (path / "manifest.json").write_bytes(flip(data, rng.randrange(8 * len(data))))
        try:
            found = load(path)
        except CheckpointError:
            continue
        assert found.config == sound.config
        assert found.weights_sha256 == sound.weights_sha256
        assert np.array_equal(found.reference.elbo, sound.reference.elbo)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_bit_that_flips_on_the_way_to_disk_is_noticed(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, honest, stem = contents(path), disk.replacing, name.partition(".")[0]

    @contextmanager
    def faulty(target: Path, lasting: bool = True) -> Iterator[Any]:
        with honest(target, lasting) as file:
            disturbed = SimpleNamespace(
                write=lambda data: file.write(flip(data, 1_003)), flush=file.flush, name=file.name
            )
            yield disturbed if target.name.startswith(stem) else file

    monkeypatch.setattr(disk, "replacing", faulty)
    with pytest.raises(OSError, match=rf"{stem}\S+ reads back otherwise"):
        write(path, **small(1), overwrite=True)
    assert contents(path) == before and not remains(path)


def fuzz(path: Path, count: int, seed: int) -> None:
    """Mutates files that the manifest then lists as right, so that they reach the parsers."""
    rng, sound = random.Random(seed), contents(as_first_written(path))
    for _ in range(count):
        name = rng.choice([*FILES, "manifest.json"])
        body = bytearray(sound[name])
        for _ in range(rng.choice((1, 1, 2, 5))):
            # Most of what can go wrong stands in a header.
            at = rng.randrange(min(len(body), rng.choice((9, 300, len(body)))) or 1)
            span = rng.choice((1, 1, 3, 9, 60))
            body[at : at + span] = rng.choice(
                (b"", bytes(span), rng.randbytes(span), 2 * body[at : at + span], b"9" * span)
            )
        if name == "manifest.json":
            (path / name).write_bytes(body)
        else:
            replace_file(path, name, bytes(body))
        try:
            found = load(path)
        except CheckpointError as error:
            assert re.fullmatch(r"E-CKPT-\d\d", error.code)
        else:
            assert all(weight.isfinite().all() for weight in found.model.parameters())
        for one, data in sound.items():
            (path / one).write_bytes(data)


def test_fuzz(path: Path) -> None:
    fuzz(path, 300, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_fuzz_long(path: Path, seed: int) -> None:
    fuzz(path, 1_000, seed)


# --- Faults and kills -------------------------------------------------------------------------

# Every way in which the writer changes or reads the disk.
CALLS = (
    (io, "open"), (os, "open"), (os, "fsync"), (os, "replace"), (os, "mkdir"), (os, "unlink"),
    (os, "listdir"), (os, "lstat"),
)  # fmt: skip


class Fault:
    """Lets the n-th filesystem call below a folder fail, and counts them."""

    def __init__(self, n: int, act: Callable[[], None]) -> None:
        self.n, self.act, self.count = n, act, 0
        self.originals = {call: getattr(*call) for call in CALLS}

    def __enter__(self) -> Fault:
        for (home, name), original in self.originals.items():
            setattr(home, name, self._wrapped(original))
        return self

    def __exit__(self, *_: object) -> None:
        for (home, name), original in self.originals.items():
            setattr(home, name, original)

    def _wrapped(self, original: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.n:
                self.act()
            return original(*args, **options)

        return call


def _raise() -> None:
    raise OSError(5, "Input/output error")


def old_or_new(path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Loads what stands there and says which of the two it is, byte for byte."""
    load(path)
    found = contents(path)
    assert found in (old, new)
    return "old" if found == old else "new"


@pytest.fixture
def versions(tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    for seed in (0, 1):
        write(tmp_path / f"versions/{seed}", **small(seed))
    return contents(tmp_path / "versions/0"), contents(tmp_path / "versions/1")


def test_any_failing_call_leaves_old_or_new(tmp_path: Path, versions) -> None:
    old, new = versions
    with Fault(0, _raise) as fault:
        write(tmp_path / "0" / "model", **small(0))
        write(tmp_path / "0" / "model", **small(1), overwrite=True)
    outcomes = []
    for n in range(1, fault.count + 1):
        path = tmp_path / str(n) / "model"
        shutil.copytree(tmp_path / "versions/0", path)
        failed = False
        with Fault(n, _raise):
            try:
                write(path, **small(1), overwrite=True)
            except OSError:
                failed = True
        outcomes.append((failed, old_or_new(path, old, new)))
        # Nothing lingers that the next writer would stumble over.
        write(path, **small(1), overwrite=True)
        assert contents(path) == new and not remains(path)
        assert os.listdir(path.parent) == ["model"]
    # What failed silently did so in tidying up only.
    assert (False, "old") not in outcomes
    assert {(True, "old"), (False, "new")} <= set(outcomes)
    assert outcomes.count((True, "old")) >= 10


def test_a_failing_first_write_is_made_up_for(tmp_path: Path) -> None:
    with Fault(0, _raise) as fault:
        write(tmp_path / "0" / "model", **small())
    for n in range(1, fault.count + 1):
        path = tmp_path / str(n) / "model"
        with Fault(n, _raise):
            try:
                write(path, **small())
            except OSError:
                pass
        if (path / "manifest.json").exists():
            assert load(path) and list(scan(path.parent)) == ["model"]
        else:
            assert scan(path.parent) == {}
            write(path, **small())
        assert load(path) and not remains(path)


def crash_everywhere(folder: str) -> None:
    """Overwrites a checkpoint in children that die at their n-th call, until one survives."""
    results, n, code = [], 0, 1
    old, new = (contents(Path(folder) / "versions" / seed) for seed in "01")
    while code:
        n += 1
        path = Path(folder) / str(n) / "model"
        shutil.copytree(Path(folder) / "versions/0", path)
        child = os.fork()
        if not child:
            with Fault(n, lambda: os._exit(9)):
                write(path, **small(1), overwrite=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        results.append(old_or_new(path, old, new))
        write(path, **small(1), overwrite=True)
        assert contents(path) == new and not remains(path)
    print(json.dumps(results))


def overwriting(path: Path) -> int:
    """Forks a child that overwrites a checkpoint again and again; its number."""
    if child := os.fork():
        return child
    while True:
        for version in (1, 0):
            write(path, **small(version), overwrite=True)


def kill_at_random(folder: str, count: str, seed: str) -> None:
    """Kills pairs of such children, one after the other."""
    results, rng = [], random.Random(int(seed))
    old, new = (contents(Path(folder) / "versions" / version) for version in "01")
    path = Path(folder) / "model"
    write(path, **small(0))
    for _ in range(int(count)):
        for child in [overwriting(path) for _ in range(2)]:
            time.sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            load(path)
        results.append(old_or_new(path, old, new))
    write(path, **small(1), overwrite=True)
    assert contents(path) == new and not remains(path)
    assert sorted(os.listdir(folder)) == ["model", "versions"]
    print(json.dumps(results))


def in_a_process(function: Callable, *arguments: object) -> list[str]:
    """Runs a function of this file in a process of its own, which may fork: it has no threads."""
    code = (
        f"import sys, torch, test_checkpoint; torch.set_num_threads(1)\n"
        f"test_checkpoint.{function.__name__}(*sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_death_at_any_call_leaves_old_or_new(tmp_path: Path, versions) -> None:
    results = in_a_process(crash_everywhere, tmp_path)
    assert results == sorted(results, reverse=True)  # old up to one call, new from there on
    assert results.count("old") >= 10 and results[-1] == "new"


def test_a_kill_at_any_instant_leaves_old_or_new(tmp_path: Path, versions) -> None:
    assert len(in_a_process(kill_at_random, tmp_path, 10, 0)) == 10


@pytest.mark.slow
def test_many_kills_leave_old_or_new(tmp_path: Path, versions) -> None:
    results = in_a_process(kill_at_random, tmp_path, 200, 1)
    assert set(results) == {"old", "new"}


@pytest.mark.parametrize(("writers", "layout"), [(1, "plain names"), (3, "hashed names")])
def test_readers_never_meet_a_mixture(path: Path, versions, writers: int, layout: str) -> None:
    weights = [data for one in versions for name, data in one.items() if name[:5] == "model"]
    digests = {sha256(data).hexdigest() for data in weights}
    if layout == "plain names":
        as_first_written(path)
    # Made here, since all threads draw from one generator.
    arguments, seen, stop = [small(0), small(1)], set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.update((load(path).weights_sha256, scan(path.parent)["model"].damage))
            except Exception as error:
                seen.add(repr(error))

    def overwrite() -> None:
        for seed in [1, 0] * (20 // writers):
            write(path, **arguments[seed], overwrite=True)

    readers = [threading.Thread(target=read) for _ in range(2)]
    at_work = [threading.Thread(target=overwrite) for _ in range(writers)]
    for thread in readers + at_work:
        thread.start()
    for thread in at_work:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert seen - {""} <= digests and len(seen) > 1
    assert not remains(path) and old_or_new(path, *versions)


def test_of_two_first_writers_one_is_refused(tmp_path: Path) -> None:
    # The second one waits for the first one's lock, and finds a finished checkpoint.
    said = []

    def first(seed: int) -> None:
        try:
            write(tmp_path / "model", **small(seed))
        except FileExistsError as error:
            said.append(str(error))

    (tmp_path / "model").mkdir()
    with disk.locked(tmp_path / "model" / ".lock"):
        writers = [threading.Thread(target=first, args=(seed,)) for seed in (0, 1)]
        for writer in writers:
            writer.start()
        time.sleep(0.2)
        assert not (tmp_path / "model" / "manifest.json").exists()
    for writer in writers:
        writer.join()
    assert len(said) == 1 and "exists already" in said[0]
    assert load(tmp_path / "model") and not remains(tmp_path / "model")


@pytest.mark.parametrize("file", FILES[:2])
def test_a_reader_of_a_replaced_manifest_begins_again(
    path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The writer comes between reading the manifest and reading the file that it listed.
    honest, gone = Path.read_bytes, path_of(path, file)

    def late(self: Path) -> bytes:
        if self == gone and gone.exists():
            write(path, **small(1), overwrite=True)
        return honest(self)

    monkeypatch.setattr(Path, "read_bytes", late)
    found = load(path)
    assert not gone.exists()
    assert found.weights_sha256 == sha256(path_of(path).read_bytes()).hexdigest()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files by /proc")
def test_everything_reaches_the_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lost power supply can't be tried here; the order of calls that survives one can.
    write(tmp_path / "model", **small())
    old, done = listed(tmp_path / "model"), []

    def logged(home: Any, name: str, describe: Callable[..., str]) -> None:
        original = getattr(home, name)

        def call(*args: Any, **options: Any) -> Any:
            done.append(f"{name} {describe(*args)}")
            return original(*args, **options)

        monkeypatch.setattr(home, name, call)

    logged(os, "fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink().name)
    logged(os, "replace", lambda source, target: Path(target).name)
    logged(os, "unlink", lambda file: Path(file).name)
    write(tmp_path / "model", **small(1), overwrite=True)
    done = [step for step in done if not step.startswith("unlink .")]
    new = listed(tmp_path / "model")
    expected = [f"fsync {tmp_path.name}"]
    for name in (*(new[file] for file in FILES), "manifest.json"):
        expected += [f"fsync .{name}.tmp-{disk.own_mark()}", f"replace {name}", "fsync model"]
    assert done[: len(expected)] == expected
    # Both have the same history, which so is one file.
    assert set(done[len(expected) :]) == {f"unlink {old[file]}" for file in FILES[:2]}
