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
    "nothing": ({}, 422, 'either "path" or "example" or "upload"'),
    "two sources": ({"path": "scan.h5", "example": "phantom"}, 422, 'either "path" or "example"'),
    "upload and path": ({"path": "scan.h5", "upload": "a" * 32}, 422, 'either "path" or "example"'),
    "no such upload": ({"upload": "../../etc"}, 404, "no upload of this id"),
    "upload is a number": ({"upload": 3}, 422, "upload"),
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
    "endless": ({"path": "scan.h5", "plan": {"settings": {"num_steps": 10**9}}}, 422, "at most 5000"),
    "endless by two": (
        {"path": "scan.h5", "plan": {"method": "pc_ve", "settings": {"num_steps": 5000, "num_corrector_steps": 4}}},
        422,
        "at most 20000",
    ),
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


def form(*fields: tuple[str, str | None, bytes], end: bytes = b"--B--\r\n") -> bytes:
    """A form of fields: name, file name, content."""
    body = b""
    for name, filename, content in fields:
        said = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        body += b"--B\r\nContent-Disposition: " + said.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + end


SCAN = ("file", "a.h5", h5(kspace=KSPACE))
NESTED = b"Content-Type: multipart/mixed; boundary=C\r\n\r\n--C\r\n\r\nx\r\n--C--"
FORMS: dict[str, tuple[bytes, str, int, str]] = {
    "no boundary": (form(SCAN), "multipart/form-data", 400, "no boundary"),
    "long boundary": (form(SCAN), f"multipart/form-data; boundary={'B' * 5000}", 400, "the form"),
    "other boundary": (form(SCAN), "multipart/form-data; boundary=C", 400, "the form"),
    "empty": (b"", "", 400, "the form is truncated"),
    "no fields": (form(), "", 400, "the form has no file"),
    "no file": (form(("options", None, b"{}")), "", 400, "the form has no file"),
    "empty file": (form(("file", "a.h5", b"")), "", 400, "the file of the form is empty"),
    "text as file": (form(("file", None, b"scan.h5")), "", 400, "the field file is no file"),
    "two files": (form(SCAN, SCAN), "", 400, "several files"),
    "another field": (form(("scan", "a.h5", b"x")), "", 400, "has a field 'scan'"),
    "no name": (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", "", 400, "has a field ''"),
    "no headers": (b"--B\r\n\r\nx\r\n--B--\r\n", "", 400, "has a field ''"),
    "options twice": (form(("options", None, b"{}"), ("options", None, b"{}"), SCAN), "", 400, "options twice"),
    "10000 parts": (form(*(("options", None, b"{}") for _ in range(10_000))), "", 400, "options twice"),
    "10000 headers": (b"--B\r\n" + b"A: b\r\n" * 10_000 + b"\r\nx\r\n--B--\r\n", "", 400, "cannot be read"),
    "huge header": (b"--B\r\nA: " + b"b" * 500_000 + b"\r\n\r\nx\r\n--B--\r\n", "", 400, "cannot be read"),
    "huge options": (form(("options", None, b"[" * 100_000), SCAN), "", 413, "options is over 64 KiB"),
    "options no JSON": (form(("options", None, b"{"), SCAN), "", 400, "not valid JSON"),
    "options after the file": (form(SCAN, ("options", None, b'{"sample": 3}')), "", 422, "unknown key 'sample'"),
    "path in options": (form(("options", None, b'{"path": "scan.h5"}'), SCAN), "", 422, "leave out path"),
    "name with folders": (form(("file", "../a.h5", b"x")), "", 422, "no folders"),
    "name with NUL": (form(("file", "a\0.h5", b"x")), "", 422, "the name of a file"),
    "long name": (form(("file", "a" * 3000, b"x")), "", 422, "the name of a file"),
    "truncated": (form(SCAN, end=b""), "", 400, "the form is truncated"),
    "nested": (form(("file", "a.h5", NESTED)), "", 422, "unknown format"),
    "too large": (form(("file", "a.h5", b"\0" * (1100 << 10))), "", 413, "larger than 1 MiB"),
}  # fmt: skip
