"""The process in which a foreign model is opened and traced; what it leaves is data.

``python -m vae.importing.child FOLDER`` reads ``request.json`` there and writes ``result.json``,
``programs.json`` and ``tensors.safetensors`` beside it. A model's author may change anything in
this process; whoever started it reads the three files as it would a stranger's.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vae.data.spec import ImageSpec
from vae.importing.sources import Live, open_source
from vae.importing.tracing import Refused, Traced, last_operator, trace
from vae.importing.wiring import Wiring, adapted, module_of, moments
from vae.model.likelihoods import facts_of
from vae.model.program import Program, relative_difference

__all__ = ["main"]


def main(folder: Path) -> None:
    """Answers the request in a folder."""
    request = json.loads((folder / "request.json").read_text())
    try:
        result = _answer(request, folder)
    except Refused as error:
        result = {"refused": str(error)}
    (folder / "result.json").write_text(json.dumps(result))


def _answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    weights = Path(request["weights"]) if request["weights"] else None
    live = open_source(request["source"], weights, request["allow_pickle"])
    told = [*live.told]
    given = {**live.wiring, **request["wiring"]}
    module = module_of(live.model)
    image = _image_of(given)
    wiring = _wiring(live, given, image, told)
    encode, decode = adapted(live.model, wiring)
    x = torch.linspace(0, 1, image.pixels).view(1, *image.shape)
    traced = {"encode": trace(module, encode, x, "encode")}
    z = torch.zeros(1, torch.Size(wiring.latent).numel())
    traced["decode"] = trace(module, decode, z, "decode")
    strays = max(
        _strays(module, function, traced[what], example)
        for what, function, example in (("encode", encode, x), ("decode", decode, z))
    )
    tensors = {
        f"{what}.{name}": tensor
        for what, one in traced.items()
        for name, tensor in one.tensors.items()
    }
    programs = {
        what: one.program | {"weights": [f"{what}.{name}" for name in one.program["weights"]]}
        for what, one in traced.items()
    }
    safetensors.torch.save_file(tensors, folder / "tensors.safetensors")
    (folder / "programs.json").write_text(json.dumps(programs))
    return {
        "told": told,
        "wiring": wiring.to_dict(),
        "origin": live.origin,
        "stated": {name: given[name] for name in ("sigma", "beta") if name in given},
        "strays": strays,
        "parameters": sum(weight.numel() for weight in module.parameters()),
    }


def _image_of(given: dict[str, Any]) -> ImageSpec:
    if "image" not in given:
        raise Refused("the size of its images is not known: say it by --image, such as 1x28x28.")
    channels, height, width = given["image"]
    if "channels" in given and given["channels"] != channels:
        raise Refused(f"the model takes {given['channels']} channels, and --image has {channels}.")
    return ImageSpec(channels, height, width, given.get("levels", 256), given.get("background"))


def _wiring(live: Live, given: dict[str, Any], image: ImageSpec, told: list[str]) -> Wiring:
    """The wiring: what the source says, what was said, and what the model itself shows."""
    for name, why in (
        ("likelihood", "which p(x|z) its decoder means"),
        ("pixels", "the range of the pixels that it was trained on"),
    ):
        if name not in given:
            raise Refused(f"nothing says {why}: say it by --{name}.")
    names = ("pixels", "offset", "scale_by", "layout", "second", "packing", "output", "likelihood")
    said = {name: given[name] for name in names if name in given}
    if "output" not in said:
        said["output"] = "mean"
    latent = tuple(given.get("latent", ()))
    wiring = Wiring(image, latent=latent or (1,), **said)
    x = torch.zeros(2, *image.shape)
    wiring = _layout(live, wiring, given, x, told)
    if not latent:
        with torch.no_grad():
            mu, _ = moments(live.model, wiring, x)
        wiring = replace(wiring, latent=tuple(mu.shape[1:]))
        told.append(f"latent {'×'.join(map(str, wiring.latent))}: what encode returns")
    if "second" not in given:
        told.append("second output taken for a log-variance: nothing says so; see the checks")
    if "output" not in given:
        wiring = replace(wiring, output=_output(live, wiring, told))
    return wiring


def _layout(
    live: Live, wiring: Wiring, given: dict[str, Any], x: Tensor, told: list[str]
) -> Wiring:
    """The layout that encode takes, where nobody said it."""
    if "layout" in given:
        return wiring
    errors = []
    for layout in ("nchw", "flat"):
        tried = replace(wiring, layout=layout)
        try:
            with torch.no_grad():
                moments(live.model, tried, x)
        except Refused:
            raise
        except Exception as error:
            errors.append(error)
            continue
        if layout != "nchw":
            told.append("layout flat: encode takes no images of three axes")
        return tried
    said = str(errors[0]).splitlines()[0] if str(errors[0]) else type(errors[0]).__name__
    raise Refused(
        f"encode cannot take images of {'×'.join(map(str, x.shape[1:]))}: {said}."
    ) from errors[0]


def _output(live: Live, wiring: Wiring, told: list[str]) -> str:
    """What decode returns, where nobody said it."""
    # As it is, before anything is done to what it returns.
    plain = {"output": "mean", "likelihood": "gaussian", "pixels": "0..1", "offset": ()}
    decode = adapted(live.model, replace(wiring, **plain, scale_by=()))[1]
    z = torch.zeros(1, torch.Size(wiring.latent).numel())
    program = trace(module_of(live.model), decode, z, "decode").program
    if last_operator(program) == "aten.sigmoid.default":
        told.append("output probability: decode ends in a sigmoid")
        return "probability"
    if not facts_of(wiring.likelihood).has_scale:
        raise Refused(
            "decode does not end in a sigmoid: say by --output whether it returns a logit or a "
            "probability."
        )
    told.append("output mean: decode does not end in a sigmoid")
    return "mean"


def _strays(module: nn.Module, function: Any, traced: Traced, example: Tensor) -> float:  # noqa: ANN401
    """How far the program strays from the live function, relative to the size of its outputs."""
    rows = traced.program["rows"] or 5
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, *example.shape[1:], generator=generator)
    with torch.no_grad():
        live, kept = function(x), Program(traced.program).run(x, traced.tensors)
    return max(relative_difference(one, other) for one, other in zip(live, kept, strict=True))


if __name__ == "__main__":
    # What a model's author prints is no result.
    sys.stdout = sys.stderr
    main(Path(sys.argv[1]))
