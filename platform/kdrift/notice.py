"""What every output says of its use; it imports nothing, so that anything can say it."""

from __future__ import annotations

RESEARCH_ONLY = "Research only, not for diagnosis."
"""The one sentence that page, panel, HDF5, NIfTI and DICOM carry. It is ASCII of at most 64 characters, so that a DICOM
long string (LO, 64 characters) and NIfTI's `descrip` (80 bytes) take it whole."""
