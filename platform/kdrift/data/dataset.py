"""Training images for a prior: crops of magnitude or complex slices, scaled to about 1, cached in memory.

Item `index` counts images over the whole training without bound and is a pure function of (seed, index):
slice, crop and augmentation. So any number of workers, any batch split and any resume see the same images.
zarr is imported where it is first used, in the process that reads.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kdrift.data.augment import augment, channels, crop_centre, crop_random, shrink, smooth_phase, with_phase
from kdrift.data.data_config import DataConfig
from kdrift.mri.image_scale import ImageScale
from kdrift.runs.seeds import numpy_rng

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class VolumeEntry:
    """One volume in the data: `start:stop` are the slices used of its (slice, row, col)."""

    location: str
    name: str
    start: int
    stop: int
    rows: int
    cols: int
    has_phase: bool = False
    """Whether its images are complex."""
    pixel_bytes: int = 4
    """What a pixel takes where it is stored, before compression."""

    @property
    def num_bytes(self) -> int:
        """What reading its slices takes."""
        return (self.stop - self.start) * self.rows * self.cols * self.pixel_bytes


class TrainingImages:
    """Images of one split. Pickles without its cache, so it may be sent to workers.

    `copies` says how many processes will hold what they have read, each for itself: `cache_mib` is of all of them.
    """

    def __init__(self, config: DataConfig, split: Split = "train", seed: int = 0, copies: int = 1) -> None:
        self.config, self.split, self.seed = config, split, seed
        whole = _whole_volumes(config)
        self.volumes = tuple(_of_split(whole, config, split))
        names = [each.name for each in whole]
        if not self.volumes:
            raise ValueError(_nothing_found(names, config, split))
        said = _unmatched(names, config) if split == "train" else ()
        self.notes = (*said, *_phase_notes(config, self.volumes))
        counts = [entry.stop - entry.start for entry in self.volumes]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        parts = [2 if entry.has_phase and config.wants_phase else 1 for entry in self.volumes]
        num_bytes = sum(2 * p * n * v.rows * v.cols for p, n, v in zip(parts, counts, self.volumes, strict=True))
        self.in_memory = copies * num_bytes <= config.cache_mib * 2**20
        """Whether what was read is kept."""
        self._cache: dict[tuple[int, int], np.ndarray] = {}
        self._scales: dict[int, np.ndarray] = {}
        self._readers: dict[int, Any] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def num_slices(self) -> int:
        """Number of slices, which is the length of an epoch."""
        return int(self._first[-1])

    def __len__(self) -> int:
        return self.num_slices

    def item(self, index: int) -> np.ndarray:
        """Return training image `index` (any count >= 0) as float32 (channel, crop, crop)."""
        if index < 0:
            raise ValueError(f"image index is {index}, expected at least 0")
        epoch, position = divmod(index, self.num_slices)
        image = self.slice(int(self._permutation(epoch)[position]))
        rng = numpy_rng("augmentation", self.seed, index)
        size = round(self.config.crop / rng.uniform(*self.config.zoom))
        size = min(size, max(self.config.crop, *image.shape))  # a small image is padded to the crop
        crop = crop_random(image, size, self.config.min_foreground, rng)
        return augment(shrink(crop, self.config.crop), self.config, rng)

    def batch(self, indices: Iterable[int]) -> torch.Tensor:
        """Return training images as float32 (batch, channel, crop, crop)."""
        return torch.from_numpy(np.stack([self.item(int(index)) for index in indices]))

    def validation_batch(self, num_images: int, start: int = 0, zoom: float = 1.0) -> torch.Tensor:
        """Return centre crops, shrunken by `zoom`, not augmented, float32 (batch, channel, crop, crop), spread evenly
        over the slices; complex ones have their measured phase or, with `augment_phase: smooth`, a random one, always
        the same.

        With `num_images` as large as the split every slice comes once; more than that is an error.
        """
        if not 0 < num_images <= self.num_slices:
            raise ValueError(f"num_images is {num_images}, the split has {self.num_slices} slices")
        images = []
        for pick in (np.arange(num_images) * self.num_slices // num_images + start) % self.num_slices:
            image = self.slice(int(pick))
            size = min(round(self.config.crop / zoom), max(self.config.crop, *image.shape))
            crop = shrink(crop_centre(image, size), self.config.crop)
            if self.config.images == "complex" and self.config.augment_phase == "smooth":
                rng = numpy_rng("validation phase", 0, int(pick))
                images.append(with_phase(crop, smooth_phase(crop.shape, self.config.phase_rad, rng)))
            else:
                images.append(channels(crop)[: 2 if self.config.images == "complex" else 1])
        return torch.from_numpy(np.stack(images))

    def slice(self, number: int) -> np.ndarray:
        """Return slice `number` of the split, scaled, float32 or complex64 (row, col), uncropped."""
        which = int(np.searchsorted(self._first, number, side="right")) - 1
        local = int(number - self._first[which])
        if self.in_memory:
            kept = np.asarray(self._kept(which, local), dtype=np.float32)
            return kept if kept.ndim == 2 else kept.view(np.complex64)[..., 0]
        return np.asarray(self._scaled(which, local, local + 1)[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_readers": {}}

    def _kept(self, which: int, local: int) -> np.ndarray:
        """Return a scaled slice from the cache as float16 (row, col); 11 bits are far below image noise.

        Complex images have a last axis more, for real and imaginary part. A volume is read at its first slice, since
        its scale needs all of it; where each slice has a scale of its own, a slice alone: of many workers each sees but
        a few slices of a volume.
        """
        if (which, local) not in self._cache:
            entry = self.volumes[which]
            whole = self.config.normalise == "volume"
            start, stop = (0, entry.stop - entry.start) if whole else (local, local + 1)
            images = self._scaled(which, start, stop)
            images = images[..., None].view(np.float32) if np.iscomplexobj(images) else images
            self._cache |= {(which, start + i): image for i, image in enumerate(images.astype(np.float16))}
        return self._cache[which, local]

    def _scaled(self, which: int, start: int, stop: int) -> np.ndarray:
        """Read slices `start:stop` of those used of a volume, scaled, float32 or complex64 (slice, row, col)."""
        images = self._read(which, start, stop)
        if self.config.normalise == "slice":
            scales = np.array([_scale(image, self.config.image_scale) for image in images])
            return np.asarray(images / scales[:, None, None])
        if which not in self._scales:
            num_slices = self.volumes[which].stop - self.volumes[which].start
            whole = images if len(images) == num_slices else self._read(which, 0, num_slices)
            self._scales[which] = _scale(whole, self.config.image_scale)
        return np.asarray(images / self._scales[which])

    def _read(self, which: int, start: int, stop: int) -> np.ndarray:
        if which not in self._readers:
            self._readers[which] = _open(self.volumes[which], self.config.wants_phase)
        first = self.volumes[which].start
        images = np.asarray(self._readers[which](first + start, first + stop))
        return images.astype(np.complex64 if np.iscomplexobj(images) else np.float32, copy=False)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            rng = numpy_rng("image", self.seed, epoch)
            self._order = (epoch, rng.permutation(self.num_slices))
        return self._order[1]


def find_volumes(config: DataConfig, split: Split) -> list[VolumeEntry]:
    """List the volumes of a split over all stores and array files, in order of store and name."""
    return _of_split(_whole_volumes(config), config, split)


def _whole_volumes(config: DataConfig) -> list[VolumeEntry]:
    if not config.stores:
        raise ValueError("data.stores is empty: name at least one store or array file")
    return [whole for location in config.stores for whole in _image_volumes(location)]


def _of_split(volumes: Sequence[VolumeEntry], config: DataConfig, split: Split) -> list[VolumeEntry]:
    entries: list[VolumeEntry] = []
    for whole in volumes:
        held_out = _matches(whole.name, config.validation)
        wanted = _matches(whole.name, config.include) and not _matches(whole.name, config.exclude)
        stop = whole.stop - config.drop_last
        if wanted and held_out == (split == "validation") and stop > config.drop_first:
            entries.append(replace(whole, start=config.drop_first, stop=stop))
    return entries


def _unmatched(names: Sequence[str], config: DataConfig) -> list[str]:
    """Return a sentence on each pattern of `include`, `exclude` and `validation` that names none of the volumes."""
    return [
        f"data.{which}: {pattern} names none of the volumes, which are {_listed(names)}"
        for which in ("include", "exclude", "validation")
        for pattern in getattr(config, which)
        if not any(_matches(name, [pattern]) for name in names)
    ]


def _image_volumes(location: str) -> list[VolumeEntry]:
    """Return all image series at a location, with all their slices."""
    if location.endswith((".npy", ".npz")):
        arrays = _open_arrays(location)
        for name, array in arrays.items():
            if array.ndim != 3 or array.dtype.kind not in "fiuc":
                have = f"{name} has shape {array.shape} of {array.dtype}"
                raise ValueError(f"{location}: {have}, expected real or complex (slice, row, col)")
        return [
            VolumeEntry(location, name, 0, slices, rows, cols, array.dtype.kind == "c", array.dtype.itemsize)
            for name, array in arrays.items()
            for slices, rows, cols in [array.shape]
        ]
    from kdrift.data.half_precision import is_half
    from kdrift.data.store import open_store

    store, entries = open_store(location), []
    for volume in map(store.read_volume, store.list_volumes()):
        info = volume.info
        if info.kind == "image" or info.has_reference:
            pixel_bytes = (8 if info.has_phase else 4) // (2 if is_half(volume.attributes) else 1)
            size = (info.num_slices, info.recon_rows, info.recon_cols)
            entries.append(VolumeEntry(location, info.name, 0, *size, info.has_phase, pixel_bytes))
    return entries


def _open(entry: VolumeEntry, with_phase: bool) -> Any:
    """Return a function (start, stop) -> images of one volume, complex ones where it has a phase that is wanted."""
    wanted = with_phase and entry.has_phase
    if entry.location.endswith((".npy", ".npz")):
        array = _open_arrays(entry.location)[entry.name]
        return lambda start, stop: array[start:stop] if wanted or not entry.has_phase else np.abs(array[start:stop])
    from kdrift.data.store import open_store

    volume = open_store(entry.location).read_volume(entry.name)
    return volume.read_complex_image if wanted else volume.read_image


def _phase_notes(config: DataConfig, volumes: Sequence[VolumeEntry]) -> tuple[str, ...]:
    """Say where volumes have a phase that is not used, or not all have one that is.

    Raises ValueError where the phase is needed and missing.
    """
    without = [entry.name for entry in volumes if not entry.has_phase]
    count, total = len(volumes) - len(without), len(volumes)
    listed = ", ".join(without[:4]) + (", ..." if len(without) > 4 else "")
    if without and (config.augment_phase == "measured" or (config.wants_phase and count == 0)):
        raise ValueError(
            f"augment_phase is {config.augment_phase!r} and {len(without)} of {total} volumes are magnitudes without a"
            f" phase ({listed}): convert k-space with --complex-images, or use augment_phase 'smooth'"
        )
    if config.wants_phase and without:
        return (f"{count} of {total} volumes have a measured phase, the others ({listed}) none: their phase is zero",)
    if count and not config.wants_phase:
        return (f"the measured phase of {count} of {total} volumes is left out: augment_phase 'measured' uses it",)
    return ()


def _open_arrays(location: str) -> dict[str, np.ndarray]:
    if location.endswith(".npy"):
        return {Path(location).stem: np.load(location, mmap_mode="r", allow_pickle=False)}
    with np.load(location, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _scale(images: np.ndarray, scale: ImageScale) -> np.ndarray:
    """Return the divisor of the magnitudes, or 1 for an empty image, which stays empty."""
    value = scale.of(np.abs(images) if np.iscomplexobj(images) else images)
    return np.asarray(value if value > 0 else 1.0, dtype=np.float32)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _nothing_found(names: Sequence[str], config: DataConfig, split: Split) -> str:
    listed = _listed(names) or "no image volumes"
    return (
        f"no volume for the {split} split: include {config.include}, exclude {config.exclude}, validation"
        f" {config.validation}, drop {config.drop_first} + {config.drop_last} slices; there is {listed}"
    )
