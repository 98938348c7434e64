"""What a file holds and what may be done with it: one slice is read, in the process that parses strangers' files."""

from __future__ import annotations

from typing import Any

from kdrift.data.measured import common_mask, has_gaps
from kdrift.recon.acquisition import load_acquisition, open_source
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.runs.config import to_dict
from kdrift_serve.job_request import in_our_words

FEW_COLUMNS = 64
"""Matrices with fewer columns are proposed to be undersampled 2 times, all others 4 times."""
TEXTS = ("acquisition", "source_format", "field_T")
"""Attributes that are told where a file states them."""


def inspect_source(request: AcquisitionRequest, shown: str) -> dict[str, Any]:
    """Read the middle slice of those that are asked for, as it was measured, and return what `Inspected` holds.

    `shown` is what the file is called in sentences. Raises ValueError as `load_acquisition` does.
    """
    with open_source(request) as opened:
        info = opened.info
        chosen = range(info.num_slices)[request.chosen]
    if not chosen:
        raise ValueError(f"{shown} has {info.num_slices} slices; none is in the range asked for")
    middle = chosen[len(chosen) // 2]
    found = load_acquisition(request.of(request.source, slices=middle, mask=None, max_bytes=request.max_bytes))
    measured = common_mask(found.mask.numpy()[None] if found.mask.ndim == 2 else found.mask.numpy())
    rows, cols = found.kspace.shape[-2:]
    gaps = has_gaps(measured)
    return {
        "slices": info.num_slices,
        "coils": info.num_coils,
        "shape": [rows, cols],
        "image_shape": list(found.image_shape),
        "undersampled": gaps,
        "net_acceleration": found.net_acceleration,
        "sampling": found.sampling,
        "has_reference": info.has_reference,
        "simulated": bool(info.attrs.get("simulated", False)),
        "stated": {name: str(info.attrs[name]) for name in TEXTS if name in info.attrs},
        "notes": [*map(in_our_words, found.notes)],
        **_proposed(gaps, found.net_acceleration, cols),
    }


def _proposed(gaps: bool, net_acceleration: float, cols: int) -> dict[str, Any]:
    """Return the mask that is proposed, None where the data have gaps already, and why."""
    if gaps:
        why = f"measured with gaps, {net_acceleration:.3g} times fewer positions: no mask, it is reconstructed as it is"
        return {"mask": None, "why": why}
    acceleration = 2.0 if cols < FEW_COLUMNS else 4.0
    why = (
        f"measured without gaps: undersampled {acceleration:g} times here, what is left out shows how well it is"
        " reconstructed"
    )
    return {"mask": to_dict(MaskRequest(kind="equispaced", acceleration=acceleration)), "why": why}
