"""A synthetic volume of fastMRI's layout and sizes: oversampled readout, many coils, the reference at 320 x 320."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdrift.data.centring import centre_crop, fft_centred
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_images
from kdrift.mri.birdcage import birdcage_maps

SIDE = 320


def write_scan(path: Path, *, coils: int = 15, slices: int = 8, cols: int = 368, seed: int = 0) -> Path:
    """Write k-space `(slices, coils, 640, cols)` of a head in the middle of its field of view, with noise and phase."""
    shape = (2 * SIDE, cols)
    images = phantom_images(slices, SIDE, SIDE, seed)
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(-1, 1, n) for n in (SIDE, SIDE))
    phase = np.exp(1j * (1.5 * y[:, None] - x[None] + 2 * y[:, None] * x[None] ** 2))
    margins = [(n - SIDE) // 2 for n in shape]
    maps = birdcage_maps(coils, *shape)
    kspace = np.empty((slices, coils, *shape), dtype=np.complex64)
    reference = np.empty((slices, SIDE, SIDE), dtype=np.float32)
    for index, image in enumerate(images):
        whole = np.pad(image * phase, [(n, n) for n in margins])
        for coil in range(coils):
            noise = rng.normal(0, 0.003, (2, *shape))
            kspace[index, coil] = fft_centred(maps[coil] * whole) + noise[0] + 1j * noise[1]
        coil_images = np.abs(centre_crop(maps, SIDE, SIDE)) * image
        reference[index] = np.sqrt((coil_images**2).sum(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    attrs = {"patient_id": f"synthetic-{seed}", "acquisition": "CORPD_FBK", "simulated": True}
    write_fastmri(path, kspace, reference=reference, attrs=attrs)
    return path
