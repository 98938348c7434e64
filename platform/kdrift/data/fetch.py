"""Public MR data: fetched from where they are published, checked by SHA-256, named with licence and citation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.io

from kdrift.data.centring import fft_centred, ifft_centred
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.runs.config import parse, read_yaml
from kdrift.runs.files import whole_file

SOURCES = Path(__file__).parent / "public_data.yaml"
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class PublicData:
    """One data set that others publish, and how kdrift gets it."""

    summary: str
    """What it is, in one line."""
    url: str
    """Address that the paths of `files` are appended to; fixed to one version of the data."""
    licence: str
    """Terms of its publisher."""
    citation: str
    """What to cite."""
    folder: str
    """Folder below the output folder."""
    files: dict[str, str]
    """SHA-256 of each file, by its path below `url`."""
    strip: str = ""
    """Beginning of the paths that is left out below `folder`."""
    conversion: Literal["none", "coil_images", "kspace", "kspace_corner", "coil_maps"] = "none"
    """`none` keeps files as they are. The others read an array of a MATLAB file: `coil_images` (row, col, coil),
    `kspace` (row, col) and `kspace_corner` (row, col), whose image has its origin in the corner, become NAME.h5 in the
    fastMRI layout; `coil_maps` (row, col, coil) become NAME.npy (coil, row, col)."""
    array: str = ""
    """Name of the array in the MATLAB file; empty where there is only one. Axes of length 1 are dropped."""
    scale: float = 1.0
    """Factor of a conversion."""

    def __post_init__(self) -> None:
        if self.conversion != "none" and len(self.files) != 1:
            raise ValueError(f"a conversion takes one file, got {len(self.files)}")
        bad = [path for path in (*self.files, self.folder) if path.startswith("/") or ".." in path.split("/")]
        if bad or not all(path.startswith(self.strip) for path in self.files):
            raise ValueError(f"expected relative paths that begin with {self.strip!r}, got {bad or list(self.files)}")


def read_sources(path: Path = SOURCES) -> dict[str, PublicData]:
    """Return the data sets of a list, by name.

    Raises ValueError for a list that is not YAML of data sets; the field is named.
    """
    return {name: parse(PublicData, values, f"{path.name}: {name}") for name, values in read_yaml(path).items()}


def fetch(name: str, data: PublicData, out: Path, echo: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Fetch a data set below `out` and return its files, ready for kdrift to read.

    Files that are there with the right checksum are kept, so that an interrupted fetch goes on where it was.

    Raises ValueError when a file cannot be fetched, or its checksum is another one; nothing wrong is left under its
    name.
    """
    found = []
    for path, checksum in data.files.items():
        if data.conversion == "none":
            found.append(_download(data.url + path, checksum, out / data.folder / path.removeprefix(data.strip), echo))
            continue
        original = _download(data.url + path, checksum, out / data.folder / "original" / Path(path).name, echo)
        found.append(_convert(original, out / data.folder / name, data, data.url + path))
    return found


def _download(url: str, checksum: str, target: Path, echo: Callable[[str], None]) -> Path:
    import pooch
    import requests

    if target.is_file() and pooch.file_hash(str(target)) == checksum:
        return target
    echo(f"{url} -> {target}")
    pooch.get_logger().setLevel("WARNING")
    target.parent.mkdir(parents=True, exist_ok=True)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
    try:
        pooch.retrieve(url, f"sha256:{checksum}", fname=target.name, path=target.parent, downloader=downloader)
    except requests.HTTPError as error:
        status = "an error" if error.response is None else error.response.status_code
        raise ValueError(f"{url} answered {status}: the file may have moved; what was fetched is kept") from None
    except requests.RequestException as error:
        raise ValueError(
            f"cannot reach {url} ({type(error).__name__}): fetching data needs the network. What was fetched is kept, "
            "run the command again. `kdrift phantom` makes data without a network."
        ) from None
    except ValueError:
        raise ValueError(
            f"{url} has another SHA-256 than {checksum[:12]}...: it is not the file that was checked, and was discarded"
        ) from None
    return target


def _convert(original: Path, stem: Path, data: PublicData, url: str) -> Path:
    """Write the array of a MATLAB file for kdrift to read; k-space is fully sampled, and its image is the reference."""
    array = data.scale * _read_array(original, data).astype(np.complex128)
    if data.conversion == "coil_maps":
        target = stem.with_suffix(".npy")
        with whole_file(target) as temporary:
            np.save(temporary, np.moveaxis(array, -1, 0).astype(np.complex64))
        return target
    target = stem.with_suffix(".h5")
    if data.conversion == "coil_images":
        images = np.moveaxis(array, -1, 0)
        kspace, reference = fft_centred(images), np.sqrt((np.abs(images) ** 2).sum(0))
    else:
        if data.conversion == "kspace_corner":
            rows, cols = np.indices(array.shape)
            array = array * (-1.0) ** (rows + cols)  # moves the image by half of its size
        kspace, reference = array, np.abs(ifft_centred(array))
    attrs = {"acquisition": stem.name, "patient_id": stem.name, "source_url": url, "licence": data.licence}
    write_fastmri(target, kspace[None], reference=reference[None], attrs=attrs)
    return target


def _read_array(original: Path, data: PublicData) -> npt.NDArray[Any]:
    content = scipy.io.loadmat(original)
    arrays = {name: np.squeeze(value) for name, value in content.items() if isinstance(value, np.ndarray)}
    name = data.array or next(iter(arrays), "")
    dims = 3 if data.conversion in ("coil_images", "coil_maps") else 2
    if name not in arrays or arrays[name].ndim != dims or (len(arrays) > 1 and not data.array):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{original}: expected array {data.array or '(one alone)'} with {dims} axes, got {shapes}")
    return arrays[name]
