"""Public MR data: fetched from where they are published, checked by SHA-256, named with licence and citation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.io
import yaml

from kdrift.data.formats.fastmri import write_fastmri
from kdrift.runs.config import parse

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
    conversion: Literal["none", "coil_images", "kspace", "kspace_corner"] = "none"
    """`none` keeps files as they are. The others read the one array of a MATLAB file and write it in the fastMRI
    layout: `coil_images` (row, col, coil), `kspace` (row, col), `kspace_corner` (row, col) whose image has its origin
    in the corner."""
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

    Raises
    ------
    ValueError
        For a list that is not YAML of data sets; the field is named.
    """
    loaded = yaml.safe_load(path.read_text())
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected data sets by name, got {type(loaded).__name__}")
    return {name: parse(PublicData, values, f"{path.name}: {name}") for name, values in loaded.items()}


def fetch(name: str, data: PublicData, out: Path, echo: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Fetch a data set below `out` and return its files, ready for kdrift to read.

    Files that are there with the right checksum are kept, so that an interrupted fetch goes on where it was.

    Raises
    ------
    ValueError
        When a file cannot be fetched, or its checksum is another one; nothing wrong is left under its name.
    """
    found = []
    for path, checksum in data.files.items():
        if data.conversion == "none":
            found.append(_download(data.url + path, checksum, out / data.folder / path.removeprefix(data.strip), echo))
            continue
        original = _download(data.url + path, checksum, out / data.folder / "original" / Path(path).name, echo)
        target = out / data.folder / f"{name}.h5"
        _convert(original, target, data, {"patient_id": name, "source_url": data.url + path, "licence": data.licence})
        found.append(target)
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


def _convert(original: Path, target: Path, data: PublicData, attrs: dict[str, str]) -> None:
    """Write the one array of a MATLAB file in the fastMRI layout, with its fully sampled image as the reference."""
    arrays = [value for value in scipy.io.loadmat(original).values() if isinstance(value, np.ndarray)]
    dims = 3 if data.conversion == "coil_images" else 2
    if len(arrays) != 1 or arrays[0].ndim != dims:
        raise ValueError(f"{original}: expected one array with {dims} axes, got {[array.shape for array in arrays]}")
    array = data.scale * arrays[0].astype(np.complex128)
    if data.conversion == "coil_images":
        images = np.moveaxis(array, -1, 0)
        kspace, reference = _centred(scipy.fft.fft2, images), np.sqrt((np.abs(images) ** 2).sum(0))
    else:
        if data.conversion == "kspace_corner":
            rows, cols = np.indices(array.shape)
            array = array * (-1.0) ** (rows + cols)  # moves the image by half of its size
        kspace, reference = array, np.abs(_centred(scipy.fft.ifft2, array))
    write_fastmri(target, kspace[None], reference=reference[None], attrs={"acquisition": target.stem, **attrs})


def _centred(transform: Callable[..., Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shifted = scipy.fft.ifftshift(values, axes=(-2, -1))
    return np.asarray(scipy.fft.fftshift(transform(shifted, norm="ortho"), axes=(-2, -1)))
