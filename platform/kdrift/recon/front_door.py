"""`kdrift.reconstruct`: arrays in, posterior mean and uncertainty out."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils import dlpack

from kdrift.methods.presets import Preset
from kdrift.mri.masks import detect_mask
from kdrift.mri.unit import out_of_range
from kdrift.prior.bundle import Prior
from kdrift.recon import reconstruct as engine
from kdrift.recon.plan import DEFAULT_METHOD, Plan
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.slices import Coils, RawSlice


def reconstruct(
    kspace: Any,
    mask: Any | Literal["full"] | None = None,
    *,
    method: str = DEFAULT_METHOD,
    preset: str | Preset | None = None,
    prior: Prior | str | None = None,
    samples: int = 8,
    steps: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    smaps: Any | None = None,
    noise_cov: Any | None = None,
    noise_sigma: float | None = None,
    keep_samples: bool = False,
    device: str | torch.device = "auto",
    progress: engine.Progress | None = None,
) -> ReconstructionResult:
    """Reconstruct undersampled Cartesian k-space by sampling the posterior, or by a classical method.

    Arrays are NumPy's, torch's, or any that speak DLPack (CuPy, JAX). `kdrift reconstruct` does the same from files.

    Parameters
    ----------
    kspace
        Complex `(coil, row, col)` or `(slice, coil, row, col)`, zero frequency in the middle (at `n // 2`).
    mask
        What was measured, boolean or 0 and 1, `(col,)`, `(row, 1)` or `(row, col)`, the same for all slices. None:
        everything but exact zeros in all coils and slices. "full": everything, zeros are data.
    method
        A key of `kdrift.METHODS`.
    preset
        Named settings of the method; None: its default.
    prior
        A loaded prior, a shipped name, or the folder of a bundle; None: the method's shipped prior.
    samples
        Posterior samples a slice.
    steps
        The method's setting `num_steps`; None: the preset's.
    seed
        Seed of the samples; the same request gives the same answer.
    settings
        Other settings of the method, by name.
    smaps
        Coil maps `([set,] coil, row, col)` for all slices, or with a slice axis first where kspace has one; None:
        ESPIRiT on the calibration lines.
    noise_cov
        Noise covariance `(coil, coil)` that weights coils against each other, in any unit; None: by their noise at the
        periphery of k-space, where that differs surely.
    noise_sigma
        Standard deviation of each real component of the noise, of every coil (of the median one beside `noise_cov`);
        None: estimated from the k-space.
    keep_samples
        Also give every sample back.
    device
        `auto`: a GPU where there is one. The result lies on the CPU.
    progress
        Called with (slice position, steps done, steps in all).

    Raises
    ------
    ValueError
        For arrays that are no such k-space, mask or maps, a name or setting that there is not, a prior that cannot
        serve, and a slice whose samples all diverged.
    """
    data = _kspace(kspace)
    sampled = _mask(mask, data)
    maps = _smaps(smaps, data, sliced=getattr(kspace, "ndim", 0) == 4)
    cov = None if noise_cov is None else _tensor(noise_cov, "noise_cov")
    coils = Coils(cov, "noise_cov", noise_sigma)
    slices = [
        RawSlice(
            index,
            torch.where(sampled.to(each.device), each, 0),
            sampled,
            None if maps is None else maps[index],
            coils=coils,
        )
        for index, each in enumerate(data)
    ]
    chosen = dict(settings or {}) | ({} if steps is None else {"num_steps": steps})
    plan = Plan(
        method, preset, chosen, num_samples=samples, seed=seed, keep_samples=keep_samples,
        num_map_sets=maps.shape[1] if maps is not None and maps.ndim == 5 else 1,
    )  # fmt: skip
    return engine.reconstruct_slices(slices, plan=plan, prior=prior, device=device, progress=progress)


def _tensor(array: Any, name: str) -> Tensor:
    """Return an array of any library as a tensor, without a copy where that is possible."""
    if isinstance(array, Tensor):
        return array.detach().resolve_conj()
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{name} has dtype {array.dtype}, expected numbers")
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if hasattr(array, "__dlpack__"):
        return dlpack.from_dlpack(array)
    hint = ""
    if isinstance(array, list | tuple):
        hint = f": pass numpy.asarray({name})"
    elif isinstance(array, str | PathLike):
        hint = ": files are read by kdrift.recon.acquisition.load_acquisition, or by the command kdrift reconstruct"
    raise ValueError(f"{name} is a {type(array).__name__}, expected an array of NumPy, torch or CuPy{hint}")


def _kspace(array: Any) -> Tensor:
    kspace = _tensor(array, "kspace")
    shape = tuple(kspace.shape)
    if kspace.ndim not in (3, 4):
        hint = "; a single coil is kspace[None]" if kspace.ndim == 2 else ""
        raise ValueError(f"kspace has shape {shape}, expected (coil, row, col) or (slice, coil, row, col){hint}")
    if not kspace.is_complex():
        pair = "; torch.view_as_complex joins a last axis of real and imaginary part" if shape[-1] == 2 else ""
        dtype = str(kspace.dtype).removeprefix("torch.")
        raise ValueError(f"kspace is {dtype}, expected complex values: images are no k-space{pair}")
    if 0 in shape:
        raise ValueError(f"kspace has shape {shape}: there is nothing to reconstruct")
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError("kspace holds values that are not finite: check the data before reconstructing")
    if fault := out_of_range(float(torch.view_as_real(kspace).abs().amax())):
        raise ValueError(f"kspace: {fault}")
    kspace = kspace.to(torch.complex64)
    return kspace if kspace.ndim == 4 else kspace[None]


def _mask(mask: Any, kspace: Tensor) -> Tensor:
    rows, cols = kspace.shape[-2:]
    if isinstance(mask, str):
        if mask != "full":
            raise ValueError(f'mask is {mask!r}, expected an array, "full" or None; kdrift.make_mask draws one')
        return torch.ones(rows, cols, dtype=torch.bool)
    if mask is None:
        return detect_mask(kspace)
    values = _tensor(mask, "mask")
    if values.is_complex() or not bool(((values == 0) | (values == 1)).all()):
        raise ValueError(
            f"mask is {values.dtype} with other values than 0 and 1: expected what was measured, as booleans"
        )
    if tuple(values.shape) not in ((cols,), (1, cols), (rows, 1), (rows, cols)):
        raise ValueError(
            f"mask has shape {tuple(values.shape)}, expected ({cols},), ({rows}, 1) or ({rows}, {cols}):"
            " one mask for all slices"
        )
    if not bool(values.any()):
        raise ValueError("mask is zero everywhere: nothing was measured")
    return (values != 0).expand(rows, cols)


def _smaps(smaps: Any, kspace: Tensor, *, sliced: bool) -> Tensor | None:
    if smaps is None:
        return None
    maps = _tensor(smaps, "smaps")
    slices, tail = len(kspace), tuple(kspace.shape[1:])
    per_slice = sliced and maps.ndim in (4, 5) and tuple(maps.shape[-3:]) == tail and len(maps) == slices
    if not per_slice:
        maps = maps[None].expand(slices, *maps.shape)
    if not maps.is_complex() or maps.ndim not in (4, 5) or tuple(maps.shape[-3:]) != tail:
        raise ValueError(
            f"smaps have shape {tuple(smaps.shape)} of {maps.dtype}, kspace has (coil, row, col) {tail}:"
            " expected complex maps ([set,] coil, row, col), or with a slice axis first"
        )
    return maps.to(torch.complex64)
