"""`kdrift info`: everything is described from headers, and nothing is unpickled as code."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdrift.cli import parse
from kdrift.data.describe import describe, to_text
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.data.volume import Volume, VolumeInfo


def run(*words: str) -> int:
    parsed = parse(["info", *words])
    assert parsed is not None
    return parsed.module.run(parsed.options)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    kspace = np.random.default_rng(0).standard_normal((2, 3, 600, 500)).astype(np.complex64)
    info = VolumeInfo("scan", "kspace", 2, 3, 600, 500, 320, 320, attrs={"acquisition": "T2"})
    with open_store(tmp_path / "x.zarr", "a") as opened:
        write_volume(opened, "scan", Volume("scan", info, lambda a, b: kspace[a:b]), source={"path": "scan.h5"})
    return tmp_path / "x.zarr"


def test_store_and_volume(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(store), str(store / "scan"), "--json") == 0
    whole, one = json.loads(capsys.readouterr().out)
    assert (whole["what"], whole["schema"], whole["num_volumes"], whole["num_slices"]) == (
        "store",
        "kdrift-store 2",
        1,
        2,
    )
    assert whole["volumes"][0]["shape"] == "2 x 3 x 600 x 500 (slice, coil, row, col)"
    assert (one["what"], one["recon_size"], one["source"]) == (
        "stored volume",
        "320 x 320",
        {"path": "scan.h5"},
    )
    assert one["attributes"] == {"acquisition": "T2"}
    assert run(str(store)) == 0
    assert "  - name: scan" in capsys.readouterr().out


def test_verify_gives_status_1(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(store), "--verify") == 0
    assert "faults: none" in capsys.readouterr().out
    (store / "scan" / "kspace" / "c" / "1" / "0" / "0" / "0").write_bytes(b"x")
    assert run(str(store), "--verify") == 1
    assert "kspace is damaged" in capsys.readouterr().out


def test_scans_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "series.npy", np.ones((3, 8, 9), np.float32))
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    one = describe(str(tmp_path / "series.npy"))
    assert (one["what"], one["kind"], one["shape"]) == ("scan", "image", "3 x 8 x 9 (slice, row, col)")
    folder = describe(str(tmp_path))
    assert [scan["kind"] for scan in folder["scans"]] == ["unreadable", "image"]
    assert run(str(tmp_path / "bad.h5"), str(tmp_path / "absent"), str(tmp_path / "series.npy")) == 1
    captured = capsys.readouterr()
    assert "what: scan" in captured.out
    assert "bad.h5: " in captured.err
    assert "absent: no such file" in captured.err


def test_prior_bundle(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(3, 4), "b": torch.ones(())}, tmp_path / "model.safetensors", {"kind": "ema"})
    (tmp_path / "config.yaml").write_text("channels: 64\n")
    (tmp_path / "card.md").write_text("# Small brain prior\n\nText.\n")
    found = describe(str(tmp_path))
    assert (found["what"], found["num_parameters"], found["card"]) == ("prior", 13, "Small brain prior")
    assert "has no section network" in found["problem"]
    assert found["serves"] == []
    assert found["tensors"] == {"a.weight": "3x4", "b": "scalar"}
    assert found["config"] == {"channels": 64}
    assert found["metadata"] == {"kind": "ema"}
    assert len(found["sha256"]) == 64
    shipped = describe("brain-complex-small")
    assert shipped["trained_for"] == "white"
    assert "annealed" in shipped["serves"]
    assert "score_mri_real" in describe("brain-magnitude")["serves"]
    assert "score_mri_real" not in describe("brain-complex-small")["serves"]
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        describe(str(tmp_path))


@pytest.mark.parametrize("zipped", [True, False])
def test_published_checkpoint(tmp_path: Path, zipped: bool) -> None:
    state = {
        "optimizer": {"state": {}, "param_groups": []},
        "model": {"module.conv.weight": torch.ones(8, 1, 3, 3), "module.conv.bias": torch.ones(8)},
        "ema": {"decay": 0.999, "num_updates": 10, "shadow_params": [torch.ones(8, 1, 3, 3), torch.ones(8)]},
        "step": 95,
    }
    path = tmp_path / "checkpoint_95.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = describe(str(path))
    assert found["layout"].startswith("score_sde_pytorch")
    entries = found["entries"]
    assert entries["step"] == 95
    assert entries["model"]["num_parameters"] == entries["ema"]["shadow_params"]["num_parameters"] == 80
    assert entries["model"]["tensors"]["module.conv.weight"] == "8x1x3x3"
    torch.save([state["model"], {}, 3, 100, state["model"]], path)
    assert describe(str(path))["layout"].startswith("NCSNv2 list")


class Hostile:
    """Writes a file when unpickled, as a hostile checkpoint might."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"model": Hostile(str(trap))}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Hostile(str(trap))))
    (tmp_path / "c.pth").write_bytes(b"\x00\x01")
    for name in ("a.pth", "b.pth", "c.pth"):
        with pytest.raises(ValueError, match=f"{name}: (needs pickled code|not a readable checkpoint)"):
            describe(str(tmp_path / name))
    assert not trap.exists()


def test_reconstruction(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "reconstruction.h5", "w") as file:
        file["reconstruction"] = np.ones((2, 8, 8), np.float32)
        file["std"] = np.ones((2, 8, 8), np.float32)
        file.attrs["seed"] = 3
    found = describe(str(tmp_path / "reconstruction.h5"))
    assert found["what"] == "reconstruction"
    assert found["arrays"]["std"] == "2 x 8 x 8 float32"
    assert found["attributes"] == {"seed": 3}


def test_text_form_is_plain() -> None:
    text = to_text({"a": 1, "b": {"c": "x"}, "d": [], "e": [{"f": 1, "g": 2}], "h": {}})
    assert text == "a: 1\nb:\n  c: x\nd: none\ne:\n  - f: 1\n    g: 2\nh: none"


def test_real_scans_are_described(shared_data: Path) -> None:
    found = describe(str(shared_data / "kspace"))
    assert found["num_scans"] == 4
    assert {scan["kind"] for scan in found["scans"]} == {"kspace"}


def test_shipped_priors_are_described_by_name() -> None:
    found = describe("brain-complex-small")
    assert (found["what"], found["card"]) == ("prior", "brain-complex-small")
    with pytest.raises(ValueError, match="brain-komplex-small: no such file or folder"):
        describe("brain-komplex-small")


def test_scans_are_described_as_they_would_be_read(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kspace = np.asarray(phantom_volume(1, 48, 40, 4, seed=4).kspace)[0]
    np.save(tmp_path / "a.npy", np.fft.ifftshift(kspace, axes=(-2, -1)).transpose(1, 2, 0))
    words = (str(tmp_path / "a.npy"), "--axes", "row,col,coil", "--json")
    assert run(*words) == 0
    assert any("zero frequency lies at the corner" in note for note in json.loads(capsys.readouterr().out)[0]["notes"])
    assert run(*words, "--not-centred") == 0
    one = json.loads(capsys.readouterr().out)[0]
    assert one["shape"] == "1 x 4 x 48 x 40 (slice, coil, row, col)"
    assert not any("zero frequency" in note for note in one["notes"])
    assert run(str(tmp_path / "a.npy"), "--select", "echo=1") == 1
    assert "cannot select echo here" in capsys.readouterr().err
    assert run(str(store), "--centred") == 1
    assert "is a store: select, axes and centred say how a scan is read" in capsys.readouterr().err
