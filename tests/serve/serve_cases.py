"""Bad requests: what is sent, the status that must come back, and a part of the sentence."""

from __future__ import annotations

import io
import struct
from typing import Any

import h5py
import numpy as np


def h5(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def declaring(shape: tuple[int, ...]) -> bytes:
    """An .npy file that claims to hold much."""
    header = f"{{'descr': '<c8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64


def sparse(shape: tuple[int, ...]) -> bytes:
    """An HDF5 file of a few bytes with a large compressed array."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("kspace", shape, np.complex64, chunks=(1, 1, 64, 64), compression="gzip")
    return buffer.getvalue()


KSPACE = np.ones((1, 2, 32, 32), np.complex64)
OFFSET = np.arange(32) - 16
MEASURED = (KSPACE * np.exp(-np.add.outer(OFFSET**2, OFFSET**2) / 20 + 1j * OFFSET)).astype(np.complex64)
NAN = np.where(np.arange(32) == 5, np.nan, KSPACE).astype(np.complex64)
JSON: dict[str, tuple[Any, int, str]] = {
    "not JSON": (b"{", 400, "not valid JSON"),
    "deep JSON": (b"[" * 50000, 400, "not valid JSON"),
    "large JSON": (b'"' + b"a" * 70000 + b'"', 413, "64 KiB"),
    "a list": ([], 422, "expected a JSON object, got list"),
    "nothing": ({}, 422, 'either "path" or "example"'),
    "two sources": ({"path": "scan.h5", "example": "phantom"}, 422, 'either "path" or "example"'),
    "unknown example": ({"example": "cat"}, 422, "example"),
    "unknown key": ({"path": "scan.h5", "masks": {}}, 422, "did you mean 'mask'?"),
    "unknown plan key": ({"path": "scan.h5", "plan": {"sample": 3}}, 422, "unknown key 'plan.sample'"),
    "plan is a number": ({"path": "scan.h5", "plan": 3}, 422, "plan"),
    "unknown output": ({"path": "scan.h5", "output": "h5,niftii"}, 422, "did you mean 'nifti'?"),
    "wrong type": ({"path": "scan.h5", "plan": {"num_samples": "many"}}, 422, "valid integer, unable to parse"),
    "path is a number": ({"path": 3}, 422, "path"),
    "no samples": ({"path": "scan.h5", "plan": {"num_samples": 0}}, 422, "at least 1"),
    "too many samples": ({"path": "scan.h5", "plan": {"num_samples": 17}}, 422, "at most num_samples 16"),
    "large batches": ({"path": "scan.h5", "plan": {"batch_samples": 1000}}, 422, "batch_samples 16"),
    "negative seed": ({"path": "scan.h5", "plan": {"seed": -1}}, 422, "seed 0 or larger"),
    "large seed": ({"path": "scan.h5", "plan": {"seed": 2**70}}, 422, "seed"),
    "unknown method": ({"path": "scan.h5", "plan": {"method": "anealed"}}, 422, "did you mean 'annealed'?"),
    "unknown preset": ({"path": "scan.h5", "plan": {"preset": "best"}}, 422, "there are tuned"),
    "unknown setting": ({"path": "scan.h5", "plan": {"settings": {"step": 3}}}, 422, "did you mean"),
    "setting of another type": ({"path": "scan.h5", "plan": {"settings": {"num_steps": [3]}}}, 422, "num_steps"),
    "endless": ({"path": "scan.h5", "plan": {"settings": {"num_steps": 10**9}}}, 422, "at most 20000"),
    "endless solver": ({"path": "scan.h5", "plan": {"method": "tv", "settings": {"max_iter": 10**9}}}, 422, "at most"),
    "text as weight": ({"path": "scan.h5", "plan": {"method": "tv", "settings": {"weight": "a"}}}, 422, "a number"),
    "NaN": (b'{"path": "scan.h5", "mask": {"kind": "random", "acceleration": NaN}}', 422, "finite"),
    "infinite": (b'{"path": "scan.h5", "plan": {"settings": {"rho": 1e999}}}', 422, "finite"),
    "map crop": ({"path": "scan.h5", "plan": {"map_crop": 7}}, 422, "map_crop in [0, 1)"),
    "check in words": ({"path": "scan.h5", "plan": {"check": "perhaps"}}, 422, "check"),
    "unknown mistrust": ({"path": "scan.h5", "plan": {"on_mistrust": "hide"}}, 422, "'keep' or 'fallback'"),
    "level above 1": ({"path": "scan.h5", "plan": {"level": 90}}, 422, "between 0 and 1"),
    "level 0": ({"path": "scan.h5", "plan": {"level": 0}}, 422, "between 0 and 1"),
    "level in words": ({"path": "scan.h5", "plan": {"level": "high"}}, 422, "level"),
    "too much in all": ({"path": "scan.h5", "plan": {"num_samples": 16, "preset": "posterior",
                                                             "settings": {"num_steps": 5000}}}, 422,
                        "80000 network evaluations in all"),
    "unknown prior": ({"path": "scan.h5", "prior": "tyni"}, 422, "did you mean 'tiny'?"),
    "unknown mask": ({"path": "scan.h5", "mask": {"kind": "spiral"}}, 422, "mask kind is one of"),
    "acceleration": ({"path": "scan.h5", "mask": {"kind": "random", "acceleration": 0.5}}, 422, "at least 1"),
    "wide ACS": ({"path": "scan.h5", "mask": {"kind": "random", "acs_lines": 99}}, 422, "acs_lines"),
    "two ACS": ({"path": "scan.h5", "mask": {"kind": "random", "acs_lines": 2, "acs_fraction": 0.1}}, 422, "not both"),
    "slices outside": ({"path": "scan.h5", "slices": [5, 9]}, 422, "none is in the range"),
    "slices of three": ({"path": "scan.h5", "slices": [1, 2, 3]}, 422, "slices"),
    "no coils": ({"path": "scan.h5", "virtual_coils": 0}, 422, "coil"),
    "parent": ({"path": "../secret.h5"}, 403, "outside"),
    "absolute": ({"path": "/etc/passwd"}, 403, "outside"),
    "link": ({"path": "link.h5"}, 403, "outside"),
    "dots": ({"path": "./x/../../root/../secret.h5"}, 403, "outside"),
    "the root": ({"path": "."}, 403, "outside"),
    "NUL": ({"path": "scan.h5\0.png"}, 422, "NUL"),
    "long path": ({"path": "a" * 5000}, 422, "possible path"),
    "URL": ({"path": "file:///etc/passwd"}, 404, "no such file"),
    "absent": ({"path": "absent.h5"}, 404, "no such file"),
}  # fmt: skip
UPLOADS: dict[str, tuple[bytes, str, int, str]] = {
    "empty": (b"", "", 400, "empty"),
    "text": (b"hello, world", "", 422, "unknown format"),
    "pickle": (npy(np.array([{}]), allow_pickle=True), "name=a.npy", 422, "a.npy"),
    "truncated HDF5": (h5(kspace=KSPACE)[:3000], "name=a.h5", 422, "truncated or damaged"),
    "truncated npy": (npy(KSPACE)[:500], "name=a.npy", 422, "a.npy"),
    "huge shape": (declaring((10**6, 10**6, 10**6)), "name=a.npy", 422, "a.npy"),
    "huge slices": (sparse((4000, 4, 256, 256)), "name=a.h5", 422, "declares"),
    "huge slice": (sparse((1, 4000, 4096, 4096)), "name=a.h5", 422, "declares"),
    "images": (h5(reconstruction_rss=np.ones((1, 32, 32), np.float32)), "", 422, "holds images"),
    "real k-space": (h5(kspace=KSPACE.real), "", 422, "expected complex"),
    "k-space of 2 axes": (h5(kspace=KSPACE[0, 0]), "", 422, "expected complex (slice, coil"),
    "no k-space": (h5(data=KSPACE), "", 422, "expected kspace"),
    "NaN": (h5(kspace=NAN), "", 422, "NaN or infinite"),
    "zeros": (h5(kspace=np.zeros_like(KSPACE)), "", 422, "zero"),
    "mask of a mask": (h5(kspace=MEASURED, mask=np.arange(32) % 2), "mask.kind=random", 422, "has a mask"),
    "mask of another shape": (h5(kspace=MEASURED, mask=np.ones(7)), "", 422, "mask has shape"),
    "unknown option": (h5(kspace=KSPACE), "sample=3", 422, "unknown key 'sample'"),
    "unknown section": (h5(kspace=KSPACE), "plans.seed=3", 422, "unknown option"),
    "option twice": (h5(kspace=KSPACE), "plan.seed=3&plan.seed=4", 422, "given twice"),
    "option in two ways": (h5(kspace=KSPACE), "plan=3&plan.seed=4", 422, "as a whole and in parts"),
    "NaN as text": (h5(kspace=KSPACE), "plan.map_crop=nan", 422, "finite"),
    "path beside a file": (h5(kspace=KSPACE), "path=scan.h5", 422, "leave out path"),
    "name with folders": (h5(kspace=KSPACE), "name=..%2Fa.h5", 422, "no folders"),
    "hidden name": (h5(kspace=KSPACE), "name=.ssh", 422, "no leading dot"),
    "too large": (b"\0" * (1100 << 10), "", 413, "larger than 1 MiB"),
}
