"""The result of a reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdrift.recon.regions import Region, RegionMean, as_region, noise_of_mean, region_mean
from kdrift.recon.sentences import verdict_lines, verdict_summary
from kdrift.trust.calibrated import interval
from kdrift.trust.verdict import Level, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdrift.recon.acquisition import AcquisitionFacts


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
    indices: tuple[int, ...] = ()
    """Numbers of the slices in their volume; empty: 0, 1, ..."""
    regions: tuple[Region, ...] = ()
    """Regions that were asked for, with the means over them."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the slices in their volume, in the order of the images."""
        return self.indices or tuple(range(len(self.mean)))

    @property
    def unchecked(self) -> dict[int, str]:
        """Slices without a verdict, by number, and why they have none; those that failed are not among them."""
        lost = "all samples diverged, and CG-SENSE is given"
        why = self.config.get("unchecked", "it was not asked for")
        return {
            index: lost if index in self.fallback and self.config.get("checks") else why
            for index in self.numbers
            if index not in self.verdicts and index not in self.failed
        }

    def verdict_of(self, index: int) -> Verdict:
        """Return the verdict on a slice, by its number; `not checked` and why where there is none."""
        why = "the slice failed" if index in self.failed else self.unchecked.get(index, "")
        return self.verdicts.get(index) or Verdict("not checked", (why,))

    @property
    def levels(self) -> list[Level]:
        """The verdicts on all slices that did not fail, in a word each."""
        return [self.verdict_of(index).level for index in self.numbers if index not in self.failed]

    @property
    def verdict_lines(self) -> list[str]:
        """A sentence on each slice: whether its image is to be believed, and why; the worst first."""
        return verdict_lines(self.verdicts, self.unchecked)

    def region(self, mask: Any) -> list[RegionMean]:
        """Return the mean over a region, with its interval, in each slice where it has pixels.

        `mask` is boolean `(row, col)`, the same in all slices, or `(slice, row, col)`. Slices that failed are left out.
        Raises ValueError for a mask that does not fit or is empty, and where the samples were not kept.
        """
        if self.samples is None and self.nfe:
            raise ValueError("the interval of a region needs the samples: reconstruct with keep_samples=True")
        found, region = list[RegionMean](), as_region(mask, self.mean.shape)
        for position, (index, inside) in enumerate(zip(self.numbers, region, strict=True)):
            if index in self.failed or not bool(inside.any()):
                continue
            verdict = self.verdict_of(index)
            measured = self.mask if self.mask.ndim == 2 else self.mask[position]
            samples = self.samples[position] if self.samples is not None and self.nfe else None
            noise, evidence = noise_of_mean(inside, measured, verdict.evidence.image_noise), verdict.evidence
            least = 0.0
            if evidence.region is not None and int(inside.sum()) <= evidence.region_size**2:
                least = evidence.region * float(self.std[position][inside].square().mean().sqrt())
            found.append(
                region_mean(
                    index, self.mean[position], samples, inside,
                    factor=verdict.factor, noise=noise, level=self.config["level"], least=least,
                )
            )  # fmt: skip
        return found

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
        spread = f", {self.config['num_samples']} samples, {self.nfe} evaluations a chain" if self.nfe else ""
        lost = sum(map(len, self.diverged.values()))
        note = f", {lost} samples diverged" if lost else ""
        note += f", {len(self.failed)} slices failed" if self.failed else ""
        note += f", {verdict_summary(self.levels)}" if self.nfe else ""
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
        """Write `mean`, `std`, `lower` or `upper` as NIfTI with voxels (col, row, slice) in mm; return the path.

        Slices are taken as axial.         Raises ValueError for other images, and where nibabel is not installed.
        """
        from kdrift.data.geometry import Geometry
        from kdrift.recon.outputs.nifti_images import write_nifti

        if images not in ("mean", "std", "lower", "upper") or len(voxel_mm) != 3:
            raise ValueError(
                f"expected images mean, std, lower or upper and three voxel sizes, got {images!r} and {voxel_mm!r}"
            )
        col, row, through = map(float, voxel_mm)
        values = getattr(self, images).numpy()
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
        said = "<br>".join(map(html.escape, (repr(self), *(self.verdict_lines if self.nfe else ()))))
        return f'<p>{said}</p><img src="data:image/png;base64,{picture}" style="max-width:100%">'

    def _acquisition(self) -> AcquisitionFacts:
        """Return what the report says of arrays that came from no file."""
        from kdrift.data.volume import VolumeInfo
        from kdrift.recon.acquisition import AcquisitionFacts

        slices, rows, cols = self.mean.shape
        coils = self.smaps.shape[-3] if self.smaps is not None else 1
        info = VolumeInfo("array", "kspace", slices, coils, rows, cols, rows, cols)
        sampling = f"as given, {self.net_acceleration:.2f}x net"
        return AcquisitionFacts(
            info=info, slice_indices=list(self.numbers), mask=self.mask, sampling=sampling,
            net_acceleration=self.net_acceleration, reference=None, reference_definition="", image_shape=(rows, cols),
        )  # fmt: skip
