"""A registered prior as MLflow loads it: k-space and mask in, mean, deviation and verdict out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdrift import reconstruct
from kdrift.cli import main
from kdrift.data.phantom import phantom_volume
from kdrift.prior.bundle import load_prior, shipped_priors
from kdrift.recon.pyfunc import method_for
from kdrift.runs.tracking import default_uri

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_every_shipped_prior_has_a_method() -> None:
    found = {name: method_for(load_prior(name)) for name in shipped_priors()}
    assert found["brain-complex"] == "annealed"
    assert found["brain-hfs"] == "hfs_sde"
    assert found["brain-unet"] == "unet"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mlflow_loads_a_registered_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its alias alone; it answers as kdrift does, and refuses what its signature does not say."""
    import mlflow

    uri = default_uri(tmp_path)
    assert main(["register", "brain-complex-small", "--tracking-uri", uri]) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    model = mlflow.pyfunc.load_model("models:/brain-complex-small@candidate")
    kspace = np.asarray(phantom_volume(1, 32, 32, 4, seed=1).kspace, dtype=np.complex64)
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, ::2] = mask[:, 10:22] = True
    given = {"kspace": kspace * mask, "mask": mask}
    answer = model.predict(given, params={"samples": 2, "steps": 3, "seed": 1})
    ours = reconstruct(kspace * mask, mask, prior="brain-complex-small", samples=2, steps=3, seed=1)
    assert np.array_equal(answer["mean"], ours.mean.numpy())
    assert np.array_equal(answer["std"], ours.std.numpy())
    assert answer["verdict"].tolist() == ours.levels
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["kspace", "mask"]
    assert signature.outputs.input_names() == ["mean", "std", "verdict"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("models:/brain-complex-small@candidate", "models:/brain-complex-small/1"):
        fetched = load_prior(name)
        assert (fetched.name, fetched.sha256) == ("brain-complex-small", load_prior("brain-complex-small").sha256)
    assert len(list((tmp_path / "cache" / "kdrift" / "priors").iterdir())) == 1
    with pytest.raises(ValueError, match="no prior brain-complex-small"):
        load_prior("models:/brain-complex-small@challenger")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    with pytest.raises(ValueError, match="needs the variable MLFLOW_TRACKING_URI"):
        load_prior("models:/brain-complex-small@candidate")
    with pytest.raises(mlflow.exceptions.MlflowException, match="mask"):
        model.predict({"kspace": kspace})
    with pytest.raises(mlflow.exceptions.MlflowException, match="kspace"):
        model.predict({"kspace": kspace.real.astype(np.float32), "mask": mask})
