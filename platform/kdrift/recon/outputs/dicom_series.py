"""DICOM output: `dicom/mean/`, `dicom/std/`, `dicom/lower/` and `dicom/upper/`, MR series that open beside the
scanner's own."""

from __future__ import annotations

import importlib.metadata
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.outputs.image_set import ImageSet
from kdrift.runs.files import whole_folder
from kdrift.trust.verdict import worst

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_UID = re.compile(r"(?=.{1,64}$)[0-2](\.(0|[1-9]\d*))+")
_FIRST_SERIES = 9001
"""Series number of the mean: beyond those of a scanner."""
_TEXT_MOST = {"LO": 64, "CS": 16}
_FULL_SCALE = 65535


def write_dicom_series(folder: Path, images: ImageSet) -> list[str]:
    """Write each kind of image as a series of MR images in `dicom/KIND`, values to 1/65535 of the largest.

    Patient, study and frame of reference are the source's where it states them; all other UIDs are new. Raises
    ValueError where pydicom is not installed.
    """
    try:
        from pydicom.uid import generate_uid
    except ImportError:
        raise ValueError("DICOM output needs pydicom: pip install 'kdrift[dicom]'") from None
    study = _stated_uid(images, "study_uid") or generate_uid()
    # a place that is a guess shares no frame with the scanner's images
    place = (images.geometry.stated and _stated_uid(images, "frame_of_reference_uid")) or generate_uid()
    uids = {"StudyInstanceUID": study, "FrameOfReferenceUID": place}
    if study != images.attrs.get("study_uid"):  # a study of its own is of now
        uids |= {"StudyDate": time.strftime("%Y%m%d"), "StudyTime": time.strftime("%H%M%S")}
    for number, kind in enumerate(images.images):
        common = _common(images, kind, uids)
        common |= {"SeriesInstanceUID": generate_uid(), "SeriesNumber": _FIRST_SERIES + number}
        with whole_folder(folder / "dicom" / kind, replace=True) as temporary:
            for index, dataset in enumerate(_slices(images, kind, common)):
                dataset.save_as(temporary / f"{index:04d}.dcm", enforce_file_format=True)
    return [f"dicom/{kind}" for kind in images.images]


def _common(images: ImageSet, kind: str, uids: dict[str, str]) -> dict[str, Any]:
    """Return what all images of a series say."""
    geometry, attrs = images.geometry, images.attrs
    sizes = (*geometry.voxel_mm[:2], geometry.slice_distance_mm)
    row_mm, col_mm, depth_mm = map(_decimal, sizes)
    row, col, _ = geometry.directions
    echo, repetition = attrs.get("echo_time_ms"), attrs.get("repetition_time_ms")
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "PRIMARY" if kind == "mean" else "SECONDARY", "OTHER", kind.upper()],
        "Modality": "MR",
        "PatientName": "",
        "PatientID": str(attrs.get("patient_id", ""))[: _TEXT_MOST["LO"]],
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PatientPosition": "",
        "Laterality": "",
        "PositionReferenceIndicator": "",
        "Manufacturer": str(attrs.get("vendor", ""))[: _TEXT_MOST["LO"]],
        "SoftwareVersions": f"kdrift {importlib.metadata.version('kdrift')}",
        "SeriesDescription": _series_description(kind, images),
        "ContentQualification": "RESEARCH",
        "ContentDate": time.strftime("%Y%m%d"),
        "ContentTime": time.strftime("%H%M%S"),
        "BurnedInAnnotation": "NO",
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "",
        "EchoTime": None if echo is None else _decimal(float(echo)),
        "RepetitionTime": None if repetition is None else _decimal(float(repetition)),
        "EchoTrainLength": None,
        "ImageOrientationPatient": [_decimal(x) for x in (*col, *row)],  # where columns, then where rows lead
        "PixelSpacing": [row_mm, col_mm],
        "SliceThickness": depth_mm,
        "SpacingBetweenSlices": depth_mm,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    if "field_T" in attrs:
        values["MagneticFieldStrength"] = _decimal(float(attrs["field_T"]))
    return values | uids


def _slices(images: ImageSet, kind: str, common: dict[str, Any]) -> list[FileDataset]:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    values = images.images[kind].astype(np.float64)
    slope = _decimal(float(values.max(initial=0)) / _FULL_SCALE or 1.0)
    window = _decimal(max(float(values.max(initial=0)), float(slope)))
    affine, made = images.affine_lps, []
    for index, image in enumerate(values):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        corner, told = affine @ (0, 0, index, 1), images.told(index)
        own = {
            "SOPClassUID": MRImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "ImageComments": f"{RESEARCH_ONLY} {told}{' ' * bool(told)}{kind} of {images.name}, {images.method}"[
                :10240
            ],
            "DerivationDescription": " ".join((f"{kind}, {images.method}.", *images.notes, told))[:1024].strip(),
            "InstanceNumber": images.first_slice + index + 1,
            "ImagePositionPatient": [_decimal(x) for x in corner[:3]],
            "SliceLocation": _decimal(float(np.dot(corner[:3], _normal(images)))),
            "Rows": image.shape[0],
            "Columns": image.shape[1],
            "WindowCenter": _decimal(float(window) / 2),
            "WindowWidth": window,
            "RescaleIntercept": "0",
            "RescaleSlope": slope,
            "RescaleType": "US",
            "VOILUTFunction": "LINEAR_EXACT",  # the window may be narrower than 1
        }
        for name, value in (common | own).items():
            setattr(dataset, name, value)
        dataset.PixelData = np.round(image / float(slope)).clip(0, _FULL_SCALE).astype("<u2").tobytes()
        made.append(dataset)
    return made


def _series_description(kind: str, images: ImageSet) -> str:
    """Return kind, worst verdict and what the images are for."""
    verdict = f", {worst(each.level for each in images.verdicts)}" if images.verdicts else ""
    return f"kdrift {kind}{verdict}. {RESEARCH_ONLY}"[: _TEXT_MOST["LO"]]


def _normal(images: ImageSet) -> npt.NDArray[np.float64]:
    row, col, _ = images.geometry.directions
    return np.cross(col, row)


def _decimal(value: float) -> Any:
    """Return a number as the decimal string of at most 16 characters that DICOM has."""
    from pydicom.valuerep import DSfloat

    return DSfloat(value, auto_format=True)


def _stated_uid(images: ImageSet, name: str) -> str | None:
    """Return a UID of the source; None where it states none, or what is none."""
    value = str(images.attrs.get(name, ""))
    return value if _UID.fullmatch(value) else None
