"""The scans that verdicts on reconstructions are tried on: what can be trusted, and what must not be trusted in error.

    python -m benchmarks.trust_scans OUT.png        # all references beside what 4x leaves of them, zero-filled

Each is one slice. Thresholds are chosen on the split `tuning` (patient 09, the two single-coil slices, torsos from the
side) and judged on `held out` (patient 12, graz_t2_4ch, torsos from below); every disturbance is in both, of another
strength or place. Groups are never averaged together. The torsos look like one person's: those of one view
are nearly alike (correlations of 0.98 and more), which is why views are split, and not files.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks import trust_disturbances as wrong
from benchmarks.held_out import FOUR
from benchmarks.trust_data import FullSlice, drawn, imaged, measured, painted
from benchmarks.trust_drawings import ball, grid, lesion, metal, resolution
from kdrift.mri.coils import combine, rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import make_mask
from kdrift.recon.request import MaskRequest
from kdrift.recon.slices import RawSlice
from kdrift.runs.files import whole_file

Kind = Literal["real", "real, disturbed", "scanner image", "simulated", "simulated phantom", "simulated, disturbed"]
Split = Literal["tuning", "held out"]
Expected = Literal["trusted", "trusted or caution", "any but misplaced trust"]
Step = Callable[[FullSlice], FullSlice]
POINTS = MaskRequest("gaussian2d", acceleration=4, acs_fraction=0.08)
"""What one coil can be reconstructed from."""
COLUMNS = 6
"""Scans in a row of the sheet."""


@dataclass(frozen=True)
class TrustScan:
    """One slice that a verdict is tried on."""

    name: str
    group: Kind
    split: Split
    expected: Expected
    why: str
    """What it is in the list for."""
    base: Callable[[], FullSlice]
    """Makes the slice as it should be."""
    steps: tuple[Step, ...] = ()
    """What then is done to it."""
    mask: MaskRequest = FOUR
    """What `expected` is said of: lines that leave out too much of one coil can be trusted of no scan."""

    def full(self) -> FullSlice:
        """Return the slice fully sampled; a spike is put on a sampled position later, by `load`.

        Raises FileNotFoundError, with the reason, where the data are absent.
        """
        scan = self.base()
        for step in self.steps:
            scan = step(scan)
        return scan

    @property
    def true_maps(self) -> Tensor | None:
        """Coil maps `([set,] coil, row, col)` that it was seen through; None: not known."""
        return self.full().true_maps

    def load(self, mask: MaskRequest) -> tuple[RawSlice, Tensor]:
        """Return it undersampled, and its reference: magnitude `(row, col)` on the scale of the data.

        Raises ValueError for a mask from a file, since scans have several sizes, and FileNotFoundError where the data
        are absent.
        """
        if mask.kind is None:
            raise ValueError(f"a mask of the file {mask.file} fits one size: give the kind of a mask that is drawn")
        scan = self.full()
        rows, cols = scan.kspace.shape[-2:]
        shape = (cols, rows) if scan.by_rows else (rows, cols)
        kept = make_mask(mask.kind, shape, **mask.draw).mask
        kept = kept.mT.contiguous() if scan.by_rows else kept
        kspace = torch.where(kept, scan.kspace, 0)
        if scan.spike is not None:
            kspace = wrong.add_spike(kspace, kept, scan.spike)
        return RawSlice(0, kspace, kept, smaps=scan.smaps, coils=scan.coils), scan.reference


PATIENT12, PATIENT09 = "brain_nifti/patient12/study1_{}.nii.gz", "brain_nifti/patient09/study2_FLAIR.nii.gz"
FLAIR12, T2_12, T1_12 = (
    partial(imaged, PATIENT12.format(name), index) for name, index in (("FLAIR", 24), ("T2W", 22), ("T1W", 22))
)
LOW09, MIDDLE09, HIGH09 = (partial(imaged, PATIENT09, index) for index in (14, 20, 26))
DICOM = partial(imaged, "brain_dicom", 140)
GRAZ = partial(measured, "kspace/graz_t2_4ch.h5")
SAFE: Expected = "any but misplaced trust"

USUAL = (
    TrustScan("graz_t2", "real", "held out", "trusted", "a head, 4 coils", GRAZ),
    TrustScan(
        "larson_t1", "real", "tuning", "trusted", "a head from the side, one coil",
        partial(measured, "kspace/larson_t1_sag_1ch.h5"), mask=POINTS,
    ),
    TrustScan(
        "wastling_t2", "real", "tuning", "trusted", "a head, one coil",
        partial(measured, "kspace/wastling_t2_1ch.h5"), mask=POINTS,
    ),
    TrustScan("p12_flair", "simulated", "held out", "trusted", "a head, 8 coils", FLAIR12),
    TrustScan("p12_t2", "simulated", "held out", "trusted", "a head, 8 coils", T2_12),
    TrustScan("p12_t1", "simulated", "held out", "trusted", "a head, 8 coils", T1_12),
    TrustScan("p09_low", "simulated", "tuning", "trusted", "a head, 8 coils", LOW09),
    TrustScan("p09_middle", "simulated", "tuning", "trusted", "a head, 8 coils", MIDDLE09),
    TrustScan("p09_high", "simulated", "tuning", "trusted", "a head with lesions, 8 coils", HIGH09),
)  # fmt: skip
"""What a prior of heads is for."""
TORSOS = tuple(
    TrustScan(
        f"torso_{number:02}", "scanner image", "tuning" if view == "sax" else "held out", SAFE,
        f"heart, lungs and liver, echo {echo}, one coil",
        partial(measured, f"other/nih_torso_{number:02}_{view}_1ch.h5", echo, None),
    )
    for number, view, echo in ((1, "sax", 0), (2, "ch4", 0), (3, "sax", 2), (4, "ch4", 2), (5, "sax", 7), (6, "ch4", 7))
)  # fmt: skip
"""Anatomy that no prior knows."""
OTHERS = (
    TrustScan("ball", "simulated phantom", "held out", SAFE, "a uniform ball", partial(drawn, ball, 1)),
    TrustScan(
        "small_ball", "simulated phantom", "tuning", SAFE, "a uniform ball, smaller, at one side",
        partial(drawn, partial(ball, centre=(-0.1, 0.15), radius=0.45), 2),
    ),
    TrustScan("resolution", "simulated phantom", "held out", SAFE, "bars, holes, edges", partial(drawn, resolution, 3)),
    TrustScan("grid", "simulated phantom", "tuning", SAFE, "a turned grid", partial(drawn, grid, 4)),
    TrustScan("p12_t2_turned", "simulated", "held out", SAFE, "a head on its side", T2_12, (wrong.turned,)),
    TrustScan("p12_flair_rows", "simulated", "held out", SAFE, "rows are undersampled", FLAIR12, (wrong.by_rows,)),
    TrustScan("p09_high_turned", "simulated", "tuning", SAFE, "a head on its side", HIGH09, (wrong.turned,)),
    TrustScan("p09_low_rows", "simulated", "tuning", SAFE, "rows are undersampled", LOW09, (wrong.by_rows,)),
    TrustScan(
        "dicom_t1_turned", "simulated", "tuning", SAFE, "a head on its side, in the training data", DICOM,
        (wrong.turned,),
    ),
    TrustScan(
        "p12_flair_lesion", "simulated", "held out", SAFE, "a tumour-like lesion that no prior has seen",
        partial(painted, PATIENT12.format("FLAIR"), 24, partial(lesion, centre=(0.15, -0.22), radius=0.16)),
    ),
    TrustScan(
        "p09_lesion", "simulated", "tuning", SAFE, "a tumour-like lesion that no prior has seen",
        partial(painted, PATIENT09, 26, partial(lesion, centre=(-0.2, 0.2), radius=0.11)),
    ),
    TrustScan(
        "p12_t1_metal", "simulated", "held out", SAFE, "metal: no signal, steep phase around",
        partial(painted, PATIENT12.format("T1W"), 22, partial(metal, centre=(-0.25, 0.2), radius=0.09)),
    ),
    TrustScan(
        "p09_metal", "simulated", "tuning", SAFE, "metal: no signal, steep phase around",
        partial(painted, PATIENT09, 14, partial(metal, centre=(0.3, -0.3), radius=0.13)),
    ),
    TrustScan(
        "p12_t2_steep", "simulated", "held out", SAFE, "4 steep coils, rough phase",
        partial(T2_12, coils=wrong.steep_coils),
    ),
    TrustScan(
        "p09_steep", "simulated", "tuning", SAFE, "4 steep coils, rough phase",
        partial(MIDDLE09, coils=partial(wrong.steep_coils, seed=1)),
    ),
)  # fmt: skip
"""Objects, positions and coils that are unlike the usual ones; the data are right."""
FAULTS: tuple[tuple[str, str, Step, Step], ...] = (
    ("spike", "a spike in one coil", partial(wrong.spiked, height=3), partial(wrong.spiked, height=2)),
    ("weak_spike", "a weak spike in one coil", partial(wrong.spiked, height=0.5), partial(wrong.spiked, height=0.3)),
    (
        "moved", "moved once, midway",
        partial(wrong.moving, poses=((0, 0, 0), (3, 3, 3)), order="blocks"),
        partial(wrong.moving, poses=((0, 0, 0), (-4, 2, -2)), order="blocks"),
    ),
    (
        "breathing", "moves to and fro",
        partial(wrong.moving, poses=wrong.to_and_fro(2.0, 0.5), order="waves"),
        partial(wrong.moving, poses=wrong.to_and_fro(1.0, 1.5), order="waves"),
    ),
    (
        "low_sigma", "noise stated too low",
        partial(wrong.told_noise, factor=1 / 4), partial(wrong.told_noise, factor=1 / 3),
    ),
    ("high_sigma", "noise stated too high", partial(wrong.told_noise, factor=4), partial(wrong.told_noise, factor=3)),
    ("mirrored_maps", "given maps of the mirrored scan", wrong.mirrored_maps, wrong.mirrored_maps),
    ("other_maps", "given maps of other coils", partial(wrong.other_maps, turns=1), partial(wrong.other_maps, turns=2)),
)  # fmt: skip
"""Name, reason, and what is done to the held-out slices and to that of tuning."""
FAULTY: tuple[tuple[str, Kind, Split, Callable[[], FullSlice]], ...] = (
    ("graz_t2", "real, disturbed", "held out", GRAZ),
    ("p12_t2", "simulated, disturbed", "held out", T2_12),
    ("p09_middle", "simulated, disturbed", "tuning", MIDDLE09),
)
"""What has all of these faults in turn."""
DISTURBED = tuple(
    TrustScan(f"{name}_{fault}", group, split, SAFE, why, base, (held_out if split == "held out" else tuning,))
    for name, group, split, base in FAULTY
    for fault, why, held_out, tuning in FAULTS
)
SINGLE: tuple[tuple[str, Split, str, Callable[[], FullSlice], Step], ...] = (
    ("p12_t2_noisy", "held out", "4 times the noise", T2_12, partial(wrong.noisier, factor=4)),
    ("p09_middle_noisy", "tuning", "3 times the noise", MIDDLE09, partial(wrong.noisier, factor=3)),
    ("p12_t2_birdcage", "held out", "given computed maps", T2_12, wrong.computed_maps),
    ("p12_flair_coil_order", "held out", "given its maps in another order", FLAIR12, wrong.reordered_maps),
    ("p09_low_coil_order", "tuning", "given its maps in another order", LOW09, wrong.reordered_maps),
)
"""Faults of simulated slices alone, whose noise and maps are known."""
FOLDED: tuple[tuple[str, Kind, Split, Callable[[], FullSlice], float], ...] = (
    ("graz_t2_fov_85", "real, disturbed", "held out", partial(GRAZ, shape=(192, 192)), 0.85),
    ("graz_t2_fov_70", "real, disturbed", "held out", partial(GRAZ, shape=(192, 192)), 0.7),
    ("p12_flair_fov_85", "simulated, disturbed", "held out", partial(FLAIR12, side=192), 0.85),
    ("p12_flair_fov_70", "simulated, disturbed", "held out", partial(FLAIR12, side=192), 0.7),
    ("p09_fov_90", "simulated, disturbed", "tuning", partial(HIGH09, side=192), 0.9),
    ("p09_fov_75", "simulated, disturbed", "tuning", partial(HIGH09, side=192), 0.75),
)
"""Fields of view as a part of the head's width; of 192 x 192, so that there are as many lines as elsewhere."""
SCANS: tuple[TrustScan, ...] = (
    *USUAL,
    *TORSOS,
    *OTHERS,
    *DISTURBED,
    *(
        TrustScan(name, "simulated, disturbed", split, SAFE, why, base, (step,))
        for name, split, why, base, step in SINGLE
    ),
    *(
        TrustScan(
            name,
            group,
            split,
            "trusted or caution",
            f"field of view of {100 * part:.0f} % of the head's width",
            base,
            (partial(wrong.small_field_of_view, fraction=part),),
        )
        for name, group, split, base, part in FOLDED
    ),
)


def draw(path: str, scans: Sequence[TrustScan] = SCANS) -> list[str]:
    """Write a sheet of references and of what 4x leaves of them; return why scans are not in it.

    Zero-filled images are combined with the maps that the scan gives, else their root sum of squares.
    """
    from matplotlib.figure import Figure

    rows = math.ceil(len(scans) / COLUMNS)
    figure = Figure(figsize=(2 * 1.5 * COLUMNS, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False).ravel()
    absent = []
    for axis in axes:
        axis.axis("off")
    for number, scan in enumerate(scans):
        try:
            raw, reference = scan.load(scan.mask)
        except FileNotFoundError as error:
            absent.append(f"{scan.name}: skipped, {error}")
            continue
        images = ifft2c(raw.kspace)
        zero_filled = rss(images) if raw.smaps is None else combine(images, raw.smaps).abs()
        titles = (f"{scan.name}\n{scan.split}: {scan.expected}", f"{scan.why}\n{scan.group}")
        for axis, image, title in zip(axes[2 * number :], (reference, zero_filled), titles, strict=False):
            axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(reference.quantile(0.998)))
            axis.set_title(title, fontsize=5)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return absent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="picture to write, .png")
    args = parser.parse_args(arguments)
    absent = draw(args.out)
    for line in absent:
        print(line)
    print(f"{args.out}: {len(SCANS) - len(absent)} of {len(SCANS)} scans")


if __name__ == "__main__":
    main()
