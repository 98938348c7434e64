"""A store of two small volumes, a prior that is not trained, and what `kdrift reconstruct` makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.recon.result import ReconstructionResult
from kdrift.runs.config import to_dict
from kdrift.sde import WhiteNoise

MASK = MaskRequest("equispaced", acceleration=2.0, acs_lines=12)
PLAN = Plan(settings={"num_steps": 3}, num_samples=4, seed=5, precision="float32")
NUM_SLICES = {"small": 2, "large": 3}


def make_inputs(folder: Path, num_slices: Mapping[str, int] = NUM_SLICES) -> dict[str, str]:
    """Write `store.zarr`, of volumes with so many slices, and `prior` into a folder and return their paths."""
    network = NetworkConfig(
        NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(),
                     middle_attention=False, centered=True, scale_by_sigma=False, init_scale=0.1),
        preconditioning="edm",
    )  # fmt: skip
    torch.manual_seed(0)
    save_prior(folder / "prior", build_network(network), network, PriorInfo(WhiteNoise(0.01, 5.0)))
    store = open_store(folder / "store.zarr", "a")
    for seed, (name, slices) in enumerate(num_slices.items()):
        volume = phantom_volume(slices, 32, 32, 4, seed=slices if num_slices is NUM_SLICES else seed)
        write_fastmri(folder / f"{name}.h5", volume.kspace, reference=volume.reference, attrs=volume.attrs)
        with open_volume(folder / f"{name}.h5") as opened:
            write_volume(store, name, opened, source={"path": name})
    return {"store": str(folder / "store.zarr"), "prior": str(folder / "prior")}


def batch_values(inputs: dict[str, str], out: Path, **changes: Any) -> dict[str, Any]:
    """Return a batch configuration as plain values."""
    values = {"store": inputs["store"], "prior": inputs["prior"], "out": str(out), "mask": to_dict(MASK)}
    return values | {"plan": to_dict(PLAN), "pool": {"actors": 2}} | changes


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def reconstructed(
    inputs: dict[str, str], plan: Plan = PLAN, names: Iterable[str] = NUM_SLICES
) -> dict[str, ReconstructionResult]:
    """Return what the library gives, volume by volume."""
    found = {}
    for name in names:
        acquisition = load_acquisition(AcquisitionRequest(source=f"{inputs['store']}/{name}", mask=MASK))
        found[name] = reconstruct(acquisition.kspace, acquisition.mask, plan=plan, prior=inputs["prior"], device="cpu")
    return found


def check_against_reconstruct(
    inputs: dict[str, str], out: Path, plan: Plan = PLAN, names: Iterable[str] = NUM_SLICES
) -> None:
    """The batch in `out` has the mean and deviation that the library gives, volume by volume."""
    for name, expected in reconstructed(inputs, plan, names).items():
        acquisition = load_acquisition(AcquisitionRequest(source=f"{inputs['store']}/{name}", mask=MASK))
        with h5py.File(out / name / "reconstruction.h5") as file:
            for key, images in (("reconstruction", expected.mean), ("std", expected.std)):
                images = acquisition.crop(images).numpy()
                assert np.abs(file[key][:] - images).max() <= 1e-5 * images.max(), f"{key} of {name} differs"
