"""`kdrift.reconstruct`: arrays in, posterior mean and uncertainty out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils import dlpack

from kdrift.data.centring import Centre, from_corner
from kdrift.data.formats.arrange import arrange_mask
from kdrift.data.measured import BoolArray, Sampling, find_sampling, magnitudes
from kdrift.data.volume import AXES, ReadOptions
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset
from kdrift.mri.mask_place import check_mask
from kdrift.mri.noise import check_noise_cov
from kdrift.mri.plausibility import check_kspace
from kdrift.mri.unit import out_of_range
from kdrift.prior.bundle import Prior
from kdrift.recon import reconstruct as engine
from kdrift.recon.given_maps import check_maps, check_noise_sigma
from kdrift.recon.plan import DEFAULT_METHOD, Plan
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sentences import without_dashes
from kdrift.recon.slices import Coils, RawSlice


def reconstruct(
    kspace: Any,
    mask: Any | Literal["full"] | None = None,
    *,
    axes: str | Sequence[str] | None = None,
    centred: bool | None = None,
    method: str = DEFAULT_METHOD,
    preset: str | Preset | None = None,
    prior: Prior | str | None = None,
    samples: int = 8,
    steps: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    maps: Literal["joint", "espirit"] = "joint",
    smaps: Any | None = None,
    noise_cov: Any | None = None,
    noise_sigma: float | None = None,
    virtual_coils: int | None = None,
    calibration: Any | None = None,
    keep_samples: bool = False,
    check: bool | None = None,
    on_mistrust: Literal["keep", "fallback"] = "keep",
    level: float = 0.9,
    device: str | torch.device = "auto",
    progress: engine.Progress | None = None,
) -> ReconstructionResult:
    """Reconstruct undersampled Cartesian k-space by sampling the posterior, or by a classical method.

    Arrays are NumPy's, torch's, or any that speak DLPack (CuPy, JAX). `kdrift reconstruct` does the same from files.

    Parameters
    ----------
    kspace
        Complex `(coil, row, col)` or `(slice, coil, row, col)`, zero frequency in the middle (at `n // 2`), unless
        `axes` and `centred` say otherwise.
    mask
        What was measured, boolean or 0 and 1, `(col,)`, `(row, 1)` or `(row, col)`, or these a slice, slices first.
        None: everything but exact zeros in all coils. "full": everything, zeros are data.
    axes
        Names of the axes of `kspace` in its order, of row, col, coil, slice, such as "row,col,coil".
    centred
        Whether zero frequency lies in the middle of k-space and mask, or at the corner as `numpy.fft.fft2` leaves it;
        None: in the middle, which is checked.
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
    maps
        How coil maps are estimated: "espirit", from the calibration lines; "joint", which goes on from these and fits
        them together with the image, by samplers whose prior is of complex images and white noise.
    smaps
        Coil maps `([set,] coil, row, col)` for all slices, or with a slice axis first where kspace has one; None: they
        are estimated.
    noise_cov
        Noise covariance `(coil, coil)` that weights coils against each other, in any unit; None: by their noise at the
        periphery of k-space, where that differs surely.
    noise_sigma
        Standard deviation of each real component of the noise, of every coil (of the median one beside `noise_cov`);
        None: estimated from the k-space.
    virtual_coils
        Compress to so many coils first; None: all coils.
    calibration
        Separate calibration data for the coil maps and the compression alone, complex with the axes and the matrix of
        `kspace`, zero where not measured, or without its slice axis for all slices; None: the calibration lines of
        `kspace` itself.
    keep_samples
        Also give every sample back, which `result.region` needs.
    check
        Whether some measured samples are held out from a few extra chains, to scale the standard deviation and to judge
        each slice (`result.verdicts`); None: where there are two samples or more, of at most 100 evaluations each.
    on_mistrust
        What is given of a slice that is not trusted: "keep", the mean nevertheless; "fallback", the image of the
        classical method that predicted held-out samples best, which its verdict names.
    level
        Nominal share of pixels within the intervals `result.lower` to `result.upper`, between 0 and 1.
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
    _check_used(method, prior, steps)
    data, sliced = _kspace(kspace, axes)
    lines = None if calibration is None else _calibration(calibration, data, axes)
    moved: tuple[str, ...] = ()
    if centred is False:
        centre, moved = from_corner(data[len(data) // 2].cpu().numpy())
        data, lines = _moved(data, centre), None if lines is None else _moved(lines, centre)
    names, stated_axes = _names(axes) or AXES[0 if sliced else 1 :], axes is not None
    try:
        doubts = check_kspace(
            data.cpu().numpy(), axes_stated=stated_axes, centring_stated=centred is not None, names=names
        )
        stated = _stated_mask(mask, data, axes, centred)
        if stated is not None:
            doubts += check_mask(data.cpu().numpy(), stated, "mask", stated=centred is True)
    except ValueError as error:
        raise ValueError(_as_keywords(str(error))) from None
    doubts = tuple(map(_as_keywords, moved + doubts))
    sampling = _sampling(stated, data, is_full=isinstance(mask, str))
    given = _smaps(smaps, data, sliced=sliced)
    count = data.shape[1]
    if virtual_coils is not None and not 1 <= virtual_coils <= count:
        raise ValueError(f"virtual_coils must lie between 1 and the {count} coils of kspace, got {virtual_coils}")
    cov = None if noise_cov is None else check_noise_cov(_tensor(noise_cov, "noise_cov"), count, "noise_cov")
    if noise_cov is None:  # that may be in any unit
        check_noise_sigma(noise_sigma, data)
    coils = Coils(cov, "noise_cov" if noise_cov is not None else "", noise_sigma, virtual_coils)
    measured = torch.from_numpy(np.array(sampling.measured)).to(data.device)

    def raw(index: int) -> RawSlice:
        smap, line = (None if each is None else each[index] for each in (given, lines))
        kept = measured[index]
        return RawSlice(index, torch.where(kept, data[index], 0), kept, smap, line, coils)

    slices = [raw(index) for index in range(len(data))]
    chosen = dict(settings or {}) | ({} if steps is None else {"num_steps": steps})
    plan = Plan(
        method, preset, chosen, num_samples=samples, seed=seed, keep_samples=keep_samples, maps=maps,
        check=check, on_mistrust=on_mistrust, level=level,
        num_map_sets=given.shape[1] if given is not None and given.ndim == 5 else None,
    )  # fmt: skip
    result = engine.reconstruct_slices(slices, plan=plan, prior=prior, device=device, progress=progress)
    notes = (*doubts, *sampling.notes, *result.notes)
    return replace(result, net_acceleration=sampling.net_acceleration, notes=notes)


def _check_used(method: str, prior: Prior | str | None, steps: int | None) -> None:
    """Raise ValueError for what a method does not use."""
    found = METHODS.get(method)
    if found is not None and prior is not None and not found.needs_prior:
        raise ValueError(f"method {method} uses no prior: leave prior out")
    if found is not None and steps is not None and not found.has_steps:
        raise ValueError(f"method {method} has no number of steps: leave steps out")


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


def _as_keywords(text: str) -> str:
    """Return a sentence that names options of the command with the keywords of this function in their place."""
    text = re.sub(r"--axes ([a-z]+(?:,[a-z]+)+)", r'axes="\1"', text)
    return without_dashes(text, centred="centred=True", not_centred="centred=False")


def _kspace(array: Any, axes: str | Sequence[str] | None, name: str = "kspace") -> tuple[Tensor, bool]:
    """Return k-space `(slice, coil, row, col)`, and whether it came with slices."""
    kspace = _tensor(array, name)
    shape = tuple(kspace.shape)
    if kspace.ndim not in (3, 4) and axes is None:
        hint = f"; a single coil is {name}[None]" if kspace.ndim == 2 else ""
        raise ValueError(f"{name} has shape {shape}, expected (coil, row, col) or (slice, coil, row, col){hint}")
    if not kspace.is_complex():
        pair = "; torch.view_as_complex joins a last axis of real and imaginary part" if shape[-1] == 2 else ""
        dtype = str(kspace.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is {dtype}, expected complex values: images are no k-space{pair}")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}: there is nothing to reconstruct")
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError(f"{name} holds values that are not finite: check the data before reconstructing")
    if fault := out_of_range(float(torch.view_as_real(kspace).abs().amax())):
        raise ValueError(f"{name}: {fault}")
    kspace = kspace.to(torch.complex64)
    names = _names(axes) or AXES[-kspace.ndim :]
    if len(names) != kspace.ndim or not {"row", "col"} <= set(names):
        raise ValueError(f"{name} has shape {shape}, axes {','.join(names)} do not name these with row and col")
    kspace = kspace.permute([names.index(each) for each in AXES if each in names])
    for place, each in enumerate(AXES):
        kspace = kspace if each in names else kspace.unsqueeze(place)
    return kspace.contiguous(), "slice" in names


def _moved(kspace: Tensor, centre: Centre) -> Tensor:
    """Return k-space with zero frequency in the middle."""
    return torch.from_numpy(np.ascontiguousarray(centre(kspace.cpu().numpy()))).to(kspace.device)


def _calibration(array: Any, kspace: Tensor, axes: str | Sequence[str] | None) -> Tensor:
    """Return calibration data as `kspace` (slice, coil, row, col), one slice for all where it has no slice axis."""
    stated = _names(axes)
    if stated is not None and "slice" in stated and getattr(array, "ndim", 0) == len(stated) - 1:
        axes = [name for name in stated if name != "slice"]
    lines, _ = _kspace(array, axes, "calibration")
    if lines.shape[1:] != kspace.shape[1:] or len(lines) not in (1, len(kspace)):
        raise ValueError(
            f"calibration has (slice, coil, row, col) {tuple(lines.shape)}, kspace has {tuple(kspace.shape)}: expected"
            " the same matrix and coils, with zeros where no calibration line was measured"
        )
    if not bool(lines.any()):
        raise ValueError("calibration is zero everywhere, expected measured lines: leave it out to use those of kspace")
    return lines.to(kspace.device).expand_as(kspace)


def _names(axes: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return ReadOptions.of(axes=axes if axes is None or isinstance(axes, str) else ",".join(axes)).axes


def _stated_mask(mask: Any, kspace: Tensor, axes: str | Sequence[str] | None, centred: bool | None) -> BoolArray | None:
    """Return the mask that was given, `(col,)`, `(row, col)` or `(slice, row, col)`, zero frequency in the middle."""
    if isinstance(mask, str) and mask != "full":
        raise ValueError(f'mask is {mask!r}, expected an array, "full" or None; kdrift.make_mask draws one')
    if mask is None or isinstance(mask, str):
        return None
    values = _tensor(mask, "mask")
    if values.is_complex():
        raise ValueError(f"mask is {values.dtype} with other values than 0 and 1: expected what was measured")
    try:
        names, shape = _names(axes) or AXES, tuple(kspace.shape)
        return arrange_mask(values.cpu().numpy(), names, shape, centred=centred is not False)
    except ValueError as error:
        if "samples nothing" in str(error):
            raise ValueError("mask is zero everywhere: nothing was measured") from None
        raise


def _sampling(stated: BoolArray | None, kspace: Tensor, *, is_full: bool) -> Sampling:
    slices, _, rows, cols = kspace.shape
    if is_full:
        return Sampling(np.ones((slices, rows, cols), dtype=bool), rows * cols, "full")
    levels = magnitudes(kspace.cpu().numpy())
    return find_sampling(levels) if stated is None else find_sampling(levels * stated, stated)


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
    return check_maps(maps.to(torch.complex64), "smaps")
