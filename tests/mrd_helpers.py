"""Write ISMRMRD files with the `ismrmrd` package, for the tests of their reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import xsd

from kdrift.data.centring import fft_centred

SIZES = tuple[int, int, int]


def encoding(
    matrix: SIZES,
    recon: SIZES | None = None,
    fov: tuple[float, float, float] = (200.0, 160.0, 5.0),
    recon_fov: tuple[float, float, float] | None = None,
    *,
    centre: tuple[int, int] | None = None,
    mode: str | None = None,
    trajectory: str = "cartesian",
    parameters: dict[str, int] | None = None,
    last: dict[str, int] | None = None,
    acceleration: tuple[int, int] = (2, 1),
) -> Any:
    """One encoding space; `mode` is the calibrationMode with an acceleration, `parameters` describe the trajectory, and
    `last` has the last values of counters: slice, repetition, ..."""

    def space(size: SIZES, mm: tuple[float, float, float]) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**dict(zip("xyz", size, strict=True))),
            fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", mm, strict=True))),
        )

    one, two = centre or (matrix[1] // 2, matrix[2] // 2)
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=matrix[1] - 1, center=one),
        kspace_encoding_step_2=xsd.limitType(minimum=0, maximum=matrix[2] - 1, center=two),
        **{name: xsd.limitType(minimum=0, maximum=value, center=0) for name, value in (last or {}).items()},
    )
    made = xsd.encodingType(
        encodedSpace=space(matrix, fov),
        reconSpace=space(recon or matrix, recon_fov or fov),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(trajectory),
    )
    if mode is not None:
        made.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(
                kspace_encoding_step_1=acceleration[0], kspace_encoding_step_2=acceleration[1]
            ),
            calibrationMode=xsd.calibrationModeType(mode),
        )
    if parameters is not None:
        longs = [xsd.userParameterLongType(name=name, value=value) for name, value in parameters.items()]
        made.trajectoryDescription = xsd.trajectoryDescriptionType(identifier="EPI", userParameterLong=longs)
    return made


def header(*encodings: Any) -> bytes:
    made = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000),
        encoding=list(encodings),
    )
    return xsd.ToXML(made).encode()


def acquisition(
    samples: np.ndarray,
    step: int = 0,
    *,
    flags: tuple[int, ...] = (),
    centre: int | None = None,
    space: int = 0,
    place: tuple[Any, Any, Any, Any] | None = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    discard: tuple[int, int] = (0, 0),
    **index: int,
) -> Any:
    """One line `(coil, sample)`; `place` has position, read_dir, phase_dir, slice_dir; `index` the other counters."""
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, dtype=np.complex64))
    made.center_sample = samples.shape[1] // 2 if centre is None else centre
    made.sample_time_us = 5.0
    made.encoding_space_ref = space
    made.discard_pre, made.discard_post = discard
    made.idx.kspace_encode_step_1 = step
    for name, value in index.items():
        setattr(made.idx, name, value)
    for flag in flags:
        made.setFlag(flag)
    if place is not None:
        for name, values in zip(("position", "read_dir", "phase_dir", "slice_dir"), place, strict=True):
            for axis in range(3):
                getattr(made, name)[axis] = values[axis]
    return made


def lines(kspace: np.ndarray, steps: Any = None, **more: Any) -> list[Any]:
    """The lines `steps` (default all) of `(coil, row, col)`."""
    return [
        acquisition(kspace[:, :, step], step, **more) for step in (range(kspace.shape[-1]) if steps is None else steps)
    ]


def write(path: Path, acquisitions: list[Any], xml: bytes, group: str = "dataset") -> Path:
    with ismrmrd.Dataset(str(path), group) as dataset:
        dataset.write_xml_header(xml)
        for made in acquisitions:
            dataset.append_acquisition(made)
    return path


def object_kspace(coils: int, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """k-space `(coil, row, col)` of a lopsided object that does not fill the field, with smooth coils."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    image = ((y / 0.7) ** 2 + (x / 0.6) ** 2 < 1) * (1 + 0.5 * (y > 0.2)) + 0.8 * (
        (y + 0.3) ** 2 + (x - 0.2) ** 2 < 0.03
    )
    angles = np.arange(coils) * 2 * np.pi / coils
    maps = np.exp(-((y - np.sin(angles)[:, None, None]) ** 2 + (x - np.cos(angles)[:, None, None]) ** 2) / 2)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, coils, rows, cols)) * 1e-3
    return (fft_centred(image * maps * np.exp(1j * angles)[:, None, None]) + noise[0] + 1j * noise[1]).astype(
        np.complex64
    )
