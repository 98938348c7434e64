"""What outputs are written from comes out of a `reconstruction.h5` as it was when that was written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.outputs.from_file import read_image_set
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.report import image_set, save_result
from kdrift.recon.request import AcquisitionRequest, MaskRequest


@pytest.mark.parametrize("plan", [Plan("tv", settings={"max_iter": 2}), Plan(settings={"num_steps": 2}, num_samples=2)])
def test_images_are_read_as_they_were_written(plan: Plan, tmp_path: Path) -> None:
    phantom = phantom_volume(3, 32, 32, 4, seed=1)
    attrs = {**phantom.attrs, "patient_id": "p-1", "echo_time_ms": 30.5}
    write_fastmri(tmp_path / "scan.h5", phantom.kspace, reference=phantom.reference, attrs=attrs)
    mask = MaskRequest(kind="equispaced", acceleration=2, acs_lines=14)
    scan = load_acquisition(AcquisitionRequest(source=str(tmp_path / "scan.h5"), mask=mask, slices=(1, 3)))
    result = reconstruct(scan.kspace, scan.mask, plan=plan, slice_indices=scan.slice_indices)
    save_result(tmp_path / "out", scan, result)
    expected = image_set(scan, result)
    found = read_image_set(tmp_path / "out" / "reconstruction.h5")
    assert set(found.images) == set(expected.images)
    assert all(np.array_equal(found.images[kind], expected.images[kind]) for kind in found.images)
    assert np.allclose(found.affine_lps, expected.affine_lps, atol=1e-9)
    assert found.geometry.stated == expected.geometry.stated
    assert (found.name, found.method, found.first_slice) == (expected.name, expected.method, 1)
    assert dict(found.attrs) == dict(expected.attrs)
    assert [found.told(i) for i in range(2)] == [expected.told(i) for i in range(2)]
    assert found.verdict == expected.verdict
    assert found.notes == expected.notes
    assert any("states no position" in note for note in found.notes)


def test_an_older_result_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.attrs["kdrift"] = "{}"
    with pytest.raises(ValueError, match="written by an older kdrift"):
        read_image_set(tmp_path / "r.h5")
