"""`python -m vae import`: foreign models become checkpoints, and bad input is one sentence."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vae
from vae.cli.main import main
from vae.importing import child, importer
from vae.importing.weights import tensors_of
from vae.model.program import relative_difference
from vae.store.contents import CheckpointError, model_from, weights_of

ROOT = Path(__file__).parents[1]

PLAIN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.mu, self.log_var = nn.Linear(64, 32), nn.Linear(32, 3), nn.Linear(32, 3)
        self.up = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 64))

    def encode(self, x):
        h = torch.tanh(self.trunk(x.view(-1, 64)))
        return self.mu(h), self.log_var(h)

    def decode(self, z):
        return torch.sigmoid(self.up(z))

def build():
    return Net()

def fails():
    raise RuntimeError("no such run")

def nothing():
    pass

class Blind(Net):
    def encode(self, x):
        mu, log_var = super().encode(x)
        return mu / (x.view(-1, 64).sum(1, keepdim=True) - 300.0).clamp_min(0), log_var

class Gated(Net):
    # Sigmoids inside, and a mean at the end.

    def decode(self, z):
        h = self.up(z)
        return (h * torch.sigmoid(h)).view(-1, 1, 8, 8)

class Odd(Net):
    def decode(self, z):
        return torch.sigmoid(self.up(z))[:, :60]
"""
FLAGS = ["--image", "1x8x8", "--pixels", "0..1", "--likelihood", "bernoulli", "--binarize",
         "threshold", "--data", "digits"]  # fmt: skip

OWN = """
import vae

def build():
    model = vae.load({name!r}).model
    return model.encode, model.decode
"""


@pytest.fixture
def apart() -> None:
    """A test that asks for it starts the process in which foreign code runs."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(PLAIN)
    return path


def _here(words: list[str], **_: Any) -> SimpleNamespace:
    """The child's work in this process, which saves starting torch for every case."""
    child.main(Path(words[-1]))
    return SimpleNamespace(stderr="")


@pytest.fixture
def run(capsys, monkeypatch, request):
    if "apart" not in request.fixturenames:
        monkeypatch.setattr(importer.subprocess, "run", _here)

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["import", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()[-1] if said.err else ""

    return run


def test_a_plain_module_becomes_a_checkpoint(source: Path, tmp_path: Path, run, apart) -> None:
    code, out, _ = run(f"{source}:build", *FLAGS, "--out", tmp_path / "mine")
    assert code == 0
    assert "output probability: decode ends in a sigmoid" in out and "latent 3" in out
    model = vae.load(tmp_path / "mine")
    assert (model.latent_dim, model.card.origin.source) == (3, "net.py:build")
    # Nothing of the author is needed to open it, and only the command names the place.
    assert str(tmp_path) not in repr(replace(model.card, command=""))
    scope: dict = {}
    exec(PLAIN, scope)
    net = scope["build"]()
    levels = vae.open_data("digits").read(model.reference.indices[:5])
    x = model.observe(levels)
    mu, log_var = net.encode(x)
    assert torch.equal(model.encode(x).mean, mu)
    kl = (0.5 * (mu**2 + log_var.exp() - 1 - log_var)).sum(1)
    rows = vae.score(model, x)
    assert [row.kl for row in rows] == pytest.approx(kl.tolist(), rel=1e-4)
    stored = model.reference.elbo[:5]
    assert [row.elbo for row in vae.score(model, levels / 16)] == pytest.approx(stored, abs=1e-4)


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d"])
def test_an_own_model_gives_its_own_rows_when_imported(checkpoint, name, tmp_path, run) -> None:
    (tmp_path / "own.py").write_text(OWN.format(name=name))
    code, _, error = run(
        tmp_path / "own.py:build", "--image", "1x8x8", "--pixels", "0..1", "--likelihood",
        "discretized_logistic", "--output", "mean_and_log_scale", "--data", "digits",
        "--evidence-images", 20, "--out", tmp_path / "own",
    )  # fmt: skip
    assert code == 0, error
    original, imported = checkpoint(name), vae.load(tmp_path / "own")
    levels = original.reference.levels[:30]
    x = levels.astype(np.float32) / 16
    for one, other in zip(vae.score(original, x), vae.score(imported, x), strict=True):
        assert (one.elbo, one.kl, one.log_evidence) == (other.elbo, other.kl, other.log_evidence)


@pytest.mark.parametrize(
    ("where", "flags", "said"),
    [
        (":fails", FLAGS, "fails() of net.py raises RuntimeError: no such run"),
        (":nothing", FLAGS, "returns nothing"),
        (":absent", FLAGS, "net.py has no 'absent'; it has Net, build"),
        (":build", FLAGS[2:], "--image"),
        (":build", [*FLAGS[:2], *FLAGS[4:]], "--pixels"),
        (":build", [*FLAGS[:4], *FLAGS[8:]], "--likelihood"),
        (":build", ["--image", "1x9x9", *FLAGS[2:]], "encode"),
        (":build", ["--image", "8x8", *FLAGS[2:]], "sizes such as 1x28x28"),
        (":build", FLAGS[:-2], "--data mnist:full"),
        (":build", [*FLAGS[:-2], "--data", "sprites"], "takes images of 1×8×8, and sprites"),
        (":build", [*FLAGS[:4], "--likelihood", "gaussian", "--data", "digits"], "how wide"),
        (":Blind", FLAGS, "no finite ELBO for image"),
        (":Odd", FLAGS, "decode cannot be traced"),
        (":Gated", FLAGS, "say by --output"),
        (".pt2", FLAGS, "names no model"),
        (":pt2", FLAGS, "has no 'pt2'"),
        ("", FLAGS, "FILE.py:build"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    source: Path, tmp_path: Path, run, where: str, flags: list[str], said: str
) -> None:
    code, _, error = run(f"{source if where else 'x'}{where}", *flags, "--out", tmp_path / "mine")
    assert code == 2 and said in error and error.startswith("vae import: ")
    assert not (tmp_path / "mine").exists()


def test_weights_are_found_by_name_or_refused_by_name(source: Path, tmp_path: Path, run) -> None:
    scope: dict = {}
    exec(PLAIN, scope)
    net = scope["Net"]()
    torch.nn.init.constant_(net.mu.bias, 0.25)
    wrapped = {f"model.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "last.ckpt")
    words = [f"{source}:build", *FLAGS, "--out", tmp_path / "mine", "--weights"]
    code, out, error = run(*words, tmp_path / "last.ckpt")
    assert code == 0, error
    assert "'state_dict'" in out and "'model.'" in out
    x = torch.zeros(1, 1, 8, 8)
    assert torch.equal(vae.load(tmp_path / "mine").encode(x).mean, net.encode(x)[0])
    weights = {key: value for key, value in net.state_dict().items() if "mu" not in key}
    save_file(weights | {"other": torch.zeros(1)}, tmp_path / "less.safetensors")
    code, _, error = run(*words, tmp_path / "less.safetensors", "--overwrite")
    assert code == 2
    assert "mu.weight, mu.bias are missing" in error and "other is unexpected" in error


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_file_of_weights_runs_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": Writes(marker)}, tmp_path / "bad.ckpt")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Writes(marker)))
    (tmp_path / "program.pt2").write_bytes(b"PK")
    for name, said in (
        ("bad.ckpt", "it asks for"), ("bad.pkl", "a pickle"), ("program.pt2", "exported program"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            tensors_of(tmp_path / name)
    assert not marker.exists()


def test_a_damaged_network_is_refused(source: Path, tmp_path: Path, run) -> None:
    assert run(f"{source}:build", *FLAGS, "--out", tmp_path / "mine")[0] == 0
    model = vae.load(tmp_path / "mine").model
    model.tensors["encode.module.mu.bias"] += 1
    # As if this torch computed something else: the probe no longer agrees.
    assert model.strays() > 0.1
    with pytest.raises(CheckpointError, match="E-CKPT-13"):
        model_from(model.config, weights_of(model), "mine")


@pytest.mark.parametrize("rows", [0, 2, 10_000])
def test_a_probe_of_other_rows_than_one_is_refused_unrun(source, tmp_path, run, rows) -> None:
    """The cost of a network is computed for few rows, so no file says how many it is run on."""
    assert run(f"{source}:build", *FLAGS, "--out", tmp_path / "mine")[0] == 0
    model = vae.load(tmp_path / "mine").model
    model.tensors["probe.decode"] = torch.zeros(rows, 3)
    with pytest.raises(CheckpointError, match="E-CKPT-12"):
        model_from(model.config, weights_of(model), "mine")


def test_no_number_is_no_agreement() -> None:
    one = torch.tensor([1.0, 3.0, float("nan")])
    assert relative_difference(one, one.clone()) == 0
    assert relative_difference(one, torch.tensor([1.0, 1.0, float("nan")])) == 0.5
    assert relative_difference(one, torch.tensor([1.0, float("nan"), 0.0])) == float("inf")


def test_the_server_knows_nothing_of_imports(source: Path, tmp_path: Path, run, apart) -> None:
    assert run(f"{source}:build", *FLAGS, "--out", tmp_path / "mine")[0] == 0
    code = (
        "import sys, vae, vae.ui.frame, vae.ui.server.routes\n"
        f"vae.load({str(tmp_path / 'mine')!r})\n"
        "print(*sorted(n for n in sys.modules if n.startswith('vae.importing')"
        " or n in ('torch.export', 'onnx', 'keras', 'diffusers', 'pythae')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "ELBOSCOPE_CHECKPOINTS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "vae.importing" not in done.stdout


def test_imports_can_be_turned_off(source: Path, tmp_path: Path, run, monkeypatch) -> None:
    monkeypatch.setenv("ELBOSCOPE_NO_IMPORT", "1")
    code, _, error = run(f"{source}:build", *FLAGS, "--out", tmp_path / "mine")
    assert code == 2 and "turned off" in error


# --- Real models of real libraries ------------------------------------------------------------


def test_a_pythae_model_scores_as_pythae_says(tmp_path: Path, run) -> None:
    models = pytest.importorskip("pythae.models")
    torch.manual_seed(0)
    config = models.VAEConfig(input_dim=(1, 8, 8), latent_dim=4, reconstruction_loss="bce")
    theirs = models.VAE(config)
    data = vae.open_data("digits")
    x = torch.from_numpy((data.read(data.splits.train) / 16 >= 0.5).astype(np.float32))
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-3)
    for step in range(60):
        loss = theirs({"data": x[128 * (step % 8) :][:128]}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    theirs.eval().save(str(tmp_path / "theirs"))
    code, out, error = run(
        f"pythae:{tmp_path / 'theirs'}", "--binarize", "threshold", "--data", "digits",
        "--out", tmp_path / "mine",
    )  # fmt: skip
    assert code == 0, error
    assert "likelihood bernoulli: reconstruction_loss is bce" in out
    model = vae.load(tmp_path / "mine")
    levels = data.read(model.reference.indices[:6])
    seen = model.observe(levels)
    # Their loss is minus the ELBO of one draw: the same draw gives the same terms.
    with torch.no_grad():
        torch.manual_seed(1)
        reported = theirs({"data": seen})
        torch.manual_seed(1)
        q = model.encode(seen)
        z = q.mean + q.stddev * torch.randn_like(q.stddev)
        distortion = -model.decode(z).log_prob(seen)
        kl = torch.distributions.kl_divergence(q, model.prior)
    assert float(reported.recon_loss) == pytest.approx(float(distortion.mean()), rel=1e-4)
    assert float(reported.reg_loss) == pytest.approx(float(kl.mean()), rel=1e-4)


def test_a_pythae_network_of_one_s_own_runs_nothing_unasked(tmp_path: Path, run, capsys) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "model_config.json").write_text(
        '{"name": "VAEConfig", "input_dim": [1, 8, 8], "latent_dim": 4,'
        ' "uses_default_encoder": false, "reconstruction_loss": "bce"}'
    )
    (folder / "encoder.pkl").write_bytes(pickle.dumps(Writes(tmp_path / "ran")))
    words = [f"pythae:{folder}", "--binarize", "threshold", "--data", "digits", "--out"]
    code, _, error = run(*words, tmp_path / "mine")
    assert code == 2 and "encoder.pkl, a pickle" in error and "--allow-pickle" in error
    assert not (tmp_path / "ran").exists()
    assert main(["import", *words, str(tmp_path / "mine"), "--allow-pickle"]) == 2
    asked, refused = capsys.readouterr().err.splitlines()
    assert (
        asked == "encoder.pkl asks, when it is opened, for: pathlib.Path.touch, pathlib.PosixPath"
    )
    assert "encoder.pkl holds no network" in refused and (tmp_path / "ran").exists()
    (folder / "model_config.json").write_text('{"name": "VQVAEConfig"}')
    code, _, error = run(*words, tmp_path / "mine")
    assert code == 2 and "no posterior and no ELBO" in error


def test_a_tiny_autoencoder_kl(tmp_path: Path, run) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2, norm_num_groups=4, sample_size=8,
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    code, out, error = run(
        f"diffusers:{tmp_path / 'theirs'}", "--image", "1x8x8", "--likelihood",
        "discretized_logistic", "--scale", "fit", "--data", "digits", "--draws", 4,
        "--out", tmp_path / "mine",
    )  # fmt: skip
    assert code == 0, error
    model = vae.load(tmp_path / "mine")
    assert (model.latent_dim, model.config.latent) == (32, (2, 4, 4))
    assert model.card.origin.fitted_on == 500 and 0.01 < model.config.sigma < 1
    x = torch.from_numpy(vae.open_data("digits").read(model.reference.indices[:6]) / 16).float()
    with torch.no_grad():
        q = theirs.encode(2 * x - 1).latent_dist
        kl, mean = q.kl(), theirs.decode(q.mean).sample
    rows = vae.score(model, x.numpy(), draws=4)
    assert [row.kl for row in rows] == pytest.approx(kl.tolist(), rel=1e-4)
    ours = model.decode(q.mean.flatten(1)).base_dist.loc
    torch.testing.assert_close(ours, (mean + 1) / 2, rtol=1e-4, atol=1e-5)
