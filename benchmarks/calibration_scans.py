"""The scans that `configs/calibrate/brain_complex.yaml` calibrates the default on, as files for `kdrift convert`.

    python -m benchmarks.calibration_scans runs/calibration
    kdrift convert runs/calibration --store runs/calibration.zarr

Patient 09, which settings are chosen on and no weights: three slices apart from each other, seen through 8 virtual
coils of measured maps and through 4 coils of a birdcage, with smooth phase and noise at 30 dB (simulated); and the two
fully sampled single-coil slices, of whose k-space the central 128 x 128 are taken (real). Nothing that results are
reported on is among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.held_out import DATA, MEASURED_MAPS
from benchmarks.trust_data import SQUARE, measured
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.simulate import SimulationConfig, simulated

PATIENT = "brain_nifti/patient09/study2_FLAIR.nii.gz"
SLICES = (14, 20, 26)
SIMULATIONS = {"patient09_8_coils": (8, MEASURED_MAPS[1]), "patient09_4_coils": (4, None)}
REAL = {"larson_t1": "kspace/larson_t1_sag_1ch.h5", "wastling_t2": "kspace/wastling_t2_1ch.h5"}


def write_scans(folder: Path) -> list[Path]:
    """Write a file a scan in the fastMRI layout and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (coils, maps) in SIMULATIONS.items():
        config = SimulationConfig(num_coils=coils, maps=maps, size=(320, 320), matrix=SQUARE, seed=0)
        with open_volume(str(DATA / PATIENT)) as volume:
            made = simulated(volume, config)
            chosen = list(SLICES)
            kspace = made.read_kspace(0, made.info.num_slices)[chosen]
            images = made.read_image(0, made.info.num_slices)[chosen]
        write_fastmri(folder / f"{name}.h5", kspace, reference=images, attrs=made.info.attrs)
    for name, file in REAL.items():
        write_fastmri(folder / f"{name}.h5", measured(file).kspace[None].numpy())
    return [folder / f"{name}.h5" for name in (*SIMULATIONS, *REAL)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    for path in write_scans(parser.parse_args(arguments).folder):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
