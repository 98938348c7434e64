"""The result of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdrift.data.formats.selection import ranges
from kdrift.methods import METHODS
from kdrift.recon.merge import SliceResult
from kdrift.recon.slices import SliceData
from kdrift.trust.calibrated import interval
from kdrift.trust.verdict import EXCESS, RESIDUAL, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdrift.recon.acquisition import Acquisition


SINGLY = 3
"""Slices that fail alike and are still named one by one."""


@dataclass(frozen=True, repr=False)
class ReconstructionResult:
    """Reconstruction of a volume; images are magnitudes `(slice, row, col)` on the scale of the data."""

    mean: Tensor
    std: Tensor
    """Standard deviation over samples (ddof 1), zero for a method without samples."""
    samples: Tensor | None
    """`(slice, sample, row, col)` where kept; NaN where diverged."""
    zero_filled: Tensor
    mask: Tensor
    """Boolean `(row, col)`, or `(slice, row, col)` where slices differ."""
    smaps: Tensor | None
    """`(slice, [set,] coil, row, col)`; batch jobs do not gather them."""
    nfe: int
    """Network evaluations a chain; one complex image is one evaluation."""
    network_images: int
    """Real images that went through the network, all chains together."""
    seconds: float
    stages: dict[str, float]
    """Seconds in `prepare`, `network`, `sampler` (outside the network), `combine`."""
    config: dict[str, Any]
    """Resolved: method, preset, options, prior and its hash, samples, seed."""
    net_acceleration: float
    data_residual: float
    """|M (y - A x)| / |y| of the samples' images x, mean over slices."""
    noise_sigma: list[float]
    """Noise level of each slice, each real component, on the scale of the data; that of the median coil."""
    diverged: dict[int, dict[int, str]] = field(default_factory=dict)
    """Slices with samples that diverged and are left out: their numbers, and when and why."""
    fallback: list[int] = field(default_factory=list)
    """Numbers of the slices whose samples all diverged: `mean` is CG-SENSE there, `std` zero."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """Whether the image of a slice is to be believed, by its number, where that was checked; no reference is used."""
    failed: dict[int, str] = field(default_factory=dict)
    """Numbers of the slices that could not be reconstructed, and why: all their images are zero."""
    noise_source: str = ""
    """Where what is known of the coils' noise comes from, in words."""
    notes: tuple[str, ...] = ()
    """Sentences on what was found out, guessed, left out or is doubtful."""

    @property
    def lower(self) -> Tensor:
        """Lower bounds of the pixels' intervals at the level of the plan, `config["level"]`; not below 0."""
        return interval(self.mean, self.std, self.config["level"])[0]

    @property
    def upper(self) -> Tensor:
        """Upper bounds of the pixels' intervals."""
        return interval(self.mean, self.std, self.config["level"])[1]

    def __repr__(self) -> str:
        slices, rows, cols = self.mean.shape
        spread = f", {self.config['num_samples']} samples, {self.nfe} evaluations" if self.nfe else ""
        lost = sum(map(len, self.diverged.values()))
        note = f", {lost} samples diverged" if lost else ""
        note += f", {len(self.failed)} slices failed" if self.failed else ""
        size = f"{slices} slice{'' if slices == 1 else 's'} of {rows} x {cols}"
        return (
            f"ReconstructionResult({self.config['method']}: {size},"
            f" {self.net_acceleration:.2f}x net{spread}, {self.seconds:.1f} s{note})"
        )

    def plot(self, position: int = 0) -> Figure:
        """Draw one slice, by its position: zero-filled, mean, standard deviation, and a zoom."""
        from kdrift.recon.panel import panel_figure
        from kdrift.recon.report import describe_panel

        return panel_figure(**describe_panel(self._acquisition(), self, position))

    def save(self, folder: str | Path, *, output: str = "h5") -> Path:
        """Write `reconstruction.h5`, `metrics.json` and `panel.png` as `kdrift reconstruct` does; return the folder.

        `output` names more, such as `h5,nifti,dicom`.
        """
        from kdrift.recon.outputs import read_outputs
        from kdrift.recon.report import save_result

        save_result(Path(folder), self._acquisition(), self, outputs=read_outputs(output))
        return Path(folder)

    def to_nifti(self, path: str | Path, *, images: str = "mean", voxel_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> Path:
        """Write `mean` or `std` as NIfTI, voxels (col, row, slice) in mm, as axial slices; return the path.

        Raises ValueError for other images, and where nibabel is not installed.
        """
        from kdrift.data.geometry import Geometry
        from kdrift.recon.outputs.nifti_images import write_nifti

        if images not in ("mean", "std") or len(voxel_mm) != 3:
            raise ValueError(f"expected images mean or std and three voxel sizes, got {images!r} and {voxel_mm!r}")
        col, row, through = map(float, voxel_mm)
        values = (self.mean if images == "mean" else self.std).numpy()
        write_nifti(Path(path), values, Geometry((row, col, through)).affine_ras(*values.shape[1:]))
        return Path(path)

    def _repr_html_(self) -> str:
        import base64
        import html
        import io

        buffer = io.BytesIO()
        figure = self.plot(len(self.mean) // 2)
        figure.savefig(buffer, format="png", dpi=60, facecolor=figure.get_facecolor())
        picture = base64.b64encode(buffer.getvalue()).decode()
        return f'<p>{html.escape(repr(self))}</p><img src="data:image/png;base64,{picture}" style="max-width:100%">'

    def _acquisition(self) -> Acquisition:
        """Return what the report says of arrays that came from no file."""
        from kdrift.data.volume import VolumeInfo
        from kdrift.recon.acquisition import Acquisition

        slices, rows, cols = self.mean.shape
        coils = self.smaps.shape[-3] if self.smaps is not None else 1
        info = VolumeInfo("array", "kspace", slices, coils, rows, cols, rows, cols)
        sampling = f"as given, {self.net_acceleration:.2f}x net"
        return Acquisition(
            info=info, slice_indices=list(range(slices)), kspace=self.mean, mask=self.mask, sampling=sampling,
            net_acceleration=self.net_acceleration, reference=None, reference_definition="", image_shape=(rows, cols),
        )  # fmt: skip


@dataclass(frozen=True)
class SliceFacts:
    """What a result tells of a slice besides its images; on the CPU, in the unit of the slice."""

    index: int
    """Number of the slice in its volume."""
    zero_filled: Tensor
    """Magnitude `(row, col)`."""
    noise_sigma: float
    norm: float
    """|y| of the undersampled k-space."""
    prepare_s: float
    """Seconds that preparing the slice took."""
    unit: float = 1.0
    """What images, noise and norm are multiplied by to be on the scale of the data."""
    noise_source: str = ""
    """Where what is known of the coils' noise comes from."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, guessed or is doubtful."""
    num_measured: int = 0
    """Numbers in the undersampled k-space, all coils together."""

    @staticmethod
    def of(data: SliceData, prepare_s: float) -> SliceFacts:
        """Facts of a prepared slice."""
        norm = float(torch.linalg.vector_norm(data.kspace))
        count = len(data.kspace) * int(data.mask.sum())
        return SliceFacts(
            data.index, data.zero_filled.cpu(), data.noise_sigma, norm, prepare_s, data.unit, data.noise_source,
            data.notes, count,
        )  # fmt: skip

    def excess(self, misfit: float) -> float:
        """Return how many times what noise explains a data residual of this square is."""
        expected = self.noise_sigma * (2 * self.num_measured) ** 0.5
        return misfit**0.5 / expected if expected > 0 else 0.0


Outcome = tuple[SliceFacts, SliceResult] | str
"""What became of a slice: its images, or why there are none."""


def gather(
    slices: Mapping[int, Outcome],
    mask: Tensor,
    config: dict[str, Any],
    *,
    seconds: float | None = None,
    smaps: Tensor | None = None,
) -> ReconstructionResult:
    """Put the slices of a volume together, by their numbers and in their order, on the scale of the data.

    Those that failed are zero. `seconds` None: the sum over the stages. Raises ValueError with the reason of the first
    where all have failed.
    """
    done = {index: outcome for index, outcome in slices.items() if not isinstance(outcome, str)}
    failed = {index: outcome for index, outcome in slices.items() if isinstance(outcome, str)}
    if not done:
        raise ValueError(next(iter(failed.values())))
    facts, outputs = [f for f, _ in done.values()], [o for _, o in done.values()]
    stages = {"prepare": sum(f.prepare_s for f in facts)}
    stages |= {name: sum(o.stages[name] for o in outputs) for name in outputs[0].stages}

    def placed(images: Sequence[Tensor]) -> Tensor:
        found = dict(zip(done, images, strict=True))
        return torch.stack([found.get(index, torch.zeros_like(images[0])) for index in slices])

    kept = [f.unit * o.samples for f, o in done.values() if o.samples is not None]
    return ReconstructionResult(
        mean=placed([f.unit * o.mean for f, o in done.values()]),
        std=placed([f.unit * o.std for f, o in done.values()]),
        samples=placed(kept) if len(kept) == len(outputs) else None,
        zero_filled=placed([f.unit * f.zero_filled for f in facts]),
        mask=mask.cpu(),
        smaps=smaps,
        nfe=max(o.nfe for o in outputs),
        network_images=sum(o.network_images for o in outputs),
        seconds=sum(stages.values()) if seconds is None else seconds,
        stages=stages,
        config=config,
        net_acceleration=mask.numel() / max(1, int(mask.sum())),
        data_residual=float(np.mean([share(f, o) for f, o in done.values()])),
        noise_sigma=[o[0].unit * o[0].noise_sigma if not isinstance(o, str) else 0.0 for o in slices.values()],
        diverged={index: o.diverged for index, (_, o) in done.items() if o.diverged},
        fallback=[index for index, (_, o) in done.items() if o.fallback],
        verdicts={index: o.verdict for index, (_, o) in done.items() if o.verdict is not None},
        failed=failed,
        noise_source="; ".join(dict.fromkeys(f.noise_source for f in facts if f.noise_source)),
        notes=(*_notes(facts), *residual_notes(done, config["method"])),
    )


def _notes(facts: Sequence[SliceFacts]) -> tuple[str, ...]:
    """Return what was noted of the slices, each sentence once, with the slices where it is not of all."""
    found: dict[str, list[int]] = {}
    for each in facts:
        for note in each.notes:
            found.setdefault(note, []).append(each.index)
    where = {note: f"slice{'s' * (len(at) > 1)} {', '.join(map(str, at))}: " for note, at in found.items()}
    return tuple(note if len(at) == len(facts) else where[note] + note for note, at in found.items())


def share(facts: SliceFacts, result: SliceResult) -> float:
    """Return the data residual of a slice as a part of its data."""
    return result.misfit**0.5 / facts.norm if facts.norm > 0 else 0.0


def residual_notes(slices: Mapping[int, tuple[SliceFacts, SliceResult]], method: str) -> tuple[str, ...]:
    """Return a sentence where images do not explain the data: where noise does not explain what is left of them."""
    if not METHODS[method].fits_data:
        return ()
    found = {index: (share(facts, result), facts.excess(result.misfit)) for index, (facts, result) in slices.items()}
    bad = {index: both for index, both in found.items() if both[0] > RESIDUAL and both[1] > EXCESS}
    if not bad:
        return ()
    index = max(bad, key=lambda index: bad[index][0])
    part, times = bad[index]
    where = f"slice {', '.join(map(str, bad))}" if len(bad) < len(found) else "every slice"
    return (
        f"the image does not explain the data of {where}: what is left is {part:.0%} of the data, {times:.1f} times"
        f" the noise{'' if len(bad) == 1 else f' (slice {index})'}; likely causes are lines that do not belong together"
        " (motion, another contrast, a ghost of reversed lines), coil maps or axes that do not fit, a mask that marks"
        " what was not measured, or a method or prior that does not suit",
    )


def failure_lines(failed: Mapping[int, str]) -> list[str]:
    """Return a sentence for each slice that failed; more than `SINGLY` that failed alike have one together."""
    by_reason: dict[str, list[int]] = {}
    for index, reason in failed.items():
        by_reason.setdefault(reason.removeprefix(f"slice {index}: "), []).append(index)
    lines = []
    for reason, indices in by_reason.items():
        if len(indices) > SINGLY:
            lines.append(f"slices {ranges(np.array(indices))}: {reason}; their images are zero")
        else:
            lines += [f"{named(index, reason)}; its image is zero" for index in indices]
    return lines


def named(index: int, reason: str) -> str:
    """Put the number of a slice before what is wrong with it, unless it stands there."""
    return reason if reason.startswith(f"slice {index}:") else f"slice {index}: {reason}"


def divergence_lines(diverged: Mapping[int, Mapping[int, str]], fallback: Sequence[int]) -> list[str]:
    """Return a sentence for each slice of which samples diverged."""
    lines = []
    for index, samples in diverged.items():
        first = next(iter(samples), None)
        if first is None:
            continue
        left = "none is left, the slice is CG-SENSE" if index in fallback else "they are left out"
        numbers = ", ".join(map(str, samples))
        lines.append(f"slice {index}: samples diverged: {numbers} ({first} at {samples[first]}); {left}")
    return lines
