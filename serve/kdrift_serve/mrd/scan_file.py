"""An ISMRMRD file that is written while its acquisitions come."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from kdrift_serve.mrd.messages import ACQUISITION_HEAD, Line

GROUP = "dataset"
BLOCK_BYTES, BLOCK_LINES = 1 << 20, 256
"""Lines are written when so much of them is held."""
_NUMBERS = h5py.vlen_dtype(np.dtype("<f4"))
_ROW = np.dtype([("head", ACQUISITION_HEAD), ("traj", _NUMBERS), ("data", _NUMBERS)])


class ScanFile:
    """Raw data in HDF5 as the ISMRMRD package writes them, a block of lines at a time."""

    def __init__(self, path: Path, xml: bytes) -> None:
        self.path = path
        self.lines = 0
        """How many were added."""
        self._held: list[Line] = []
        self._bytes = 0
        self._file = h5py.File(path, "w")
        group = self._file.create_group(GROUP)
        group.create_dataset("xml", data=np.array([xml], dtype=object), dtype=h5py.special_dtype(vlen=bytes))
        self._table = group.create_dataset("data", (0,), _ROW, maxshape=(None,), chunks=(BLOCK_LINES,))

    def add(self, line: Line) -> bool:
        """Take a line, and return whether it is time to `write`."""
        self._held.append(line)
        self._bytes += line.size
        self.lines += 1
        return self._bytes >= BLOCK_BYTES or len(self._held) >= BLOCK_LINES

    def write(self) -> None:
        """Write the lines that are held. Raises OSError where the disk is full."""
        first, rows = len(self._table), np.empty(len(self._held), dtype=_ROW)
        for row, line in enumerate(self._held):
            rows["head"][row] = line.head
            rows["traj"][row] = np.frombuffer(line.trajectory, "<f4")
            rows["data"][row] = np.frombuffer(line.samples, "<f4")
        self._table.resize(first + len(rows), axis=0)
        self._table[first:] = rows
        self._held, self._bytes = [], 0

    def close(self) -> None:
        """Close the file; lines that are still held are lost. It may be closed already."""
        self._file.close()
