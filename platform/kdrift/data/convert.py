"""Conversion of scans to a store on Ray: one task, and so one writer, a volume; resumable and idempotent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdrift.data.centring import centre_crop
from kdrift.data.complex_images import complex_images
from kdrift.data.convert_sources import assign_names, find_all, fingerprint, is_same
from kdrift.data.formats import open_volume
from kdrift.data.half_precision import Precision
from kdrift.data.store import Store, open_store
from kdrift.data.store_write import Derive, remove_leftovers, write_volume
from kdrift.data.volume import ReadOptions, Volume
from kdrift.runs.cluster import own_cpus, ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.files import only_user
from kdrift.runs.hint import first_line, one_line
from kdrift.runs.progress import progress

Outcome = tuple[int, tuple[str, ...]] | str
"""Bytes written and notes of a source, or why it failed."""
COMPLEX = "complex_image"
"""What is asked for, and the name of its array, where complex images take the place of k-space."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Tasks pass names and numbers, never arrays, so a private Ray needs only a small object store."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did; `failed` maps a source to the reason."""

    converted: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    notes: dict[str, tuple[str, ...]]
    """What the reader of each converted source guessed, chose, left out or doubts."""
    found: tuple[str, ...]
    """Sentences on what was found: what was left out and why, and files that are the same."""
    num_bytes: int
    seconds: float

    @property
    def summary(self) -> str:
        """One line: counts, bytes and rate."""
        rate = self.num_bytes / 1e6 / max(self.seconds, 1e-9)
        return (
            f"{len(self.converted)} converted, {len(self.skipped)} unchanged, {len(self.failed)} failed;"
            f" {self.num_bytes / 1e6:.1f} MB in {self.seconds:.1f} s ({rate:.0f} MB/s)"
        )


@dataclass(frozen=True)
class ConvertConfig:
    """One conversion."""

    sources: list[str]
    """Files, folders, globs, URLs."""
    store: str
    """Folder or URL of the store."""
    smaps: bool = False
    """Also compute ESPIRiT coil maps of each slice."""
    target: bool = False
    """Also compute the root-sum-of-squares image where fully sampled k-space comes without a reference."""
    complex_images: bool = False
    """Store coil-combined complex images, with their measured phase, in place of k-space."""
    precision: Precision = "float32"
    """What images are stored in: float16, with a power of two for each slice, takes half the bytes and costs 2e-4 of a
    pixel; k-space is float32 alone."""
    select: str | None = None
    """Which of several there are in a file, such as contrast=1,repetition=0; null: the first of each."""
    axes: str | None = None
    """Axes of arrays that do not say, in their order, such as row,col,coil; null: as documented for their format."""
    centred: bool | None = None
    """Whether zero frequency lies in the middle of k-space (true) or at its corner (false); null: in the middle."""
    workers: int | None = None
    """Volumes at a time; null: all CPUs."""
    overwrite: bool = False
    """Convert unchanged sources again."""


def convert(
    config: ConvertConfig, *, address: str | None = None, quiet: bool = False, echo: Callable[[str], None] = print
) -> ConversionReport:
    """Convert scans to volumes of a store.

    A source that is in the store already, unchanged and with the arrays and precision asked for, is skipped. A bad file
    does not stop the others. With `address` the tasks run on a Ray cluster, all of whose nodes must see the paths;
    `quiet` shows no progress.

    Raises ValueError if a source names nothing, the store is of another schema, or another conversion is writing to it.
    """
    started = time.perf_counter()
    wanted = {"smaps": config.smaps, "target": config.target, COMPLEX: config.complex_images}
    requested = [name for name, value in wanted.items() if value]
    if config.complex_images and len(requested) > 1:
        raise ValueError("complex_images take the place of k-space: leave out smaps and target, which belong to it")
    if config.precision == "float16" and (config.smaps or config.target):
        raise ValueError("precision float16 is for images: leave out smaps and target, which belong to k-space")
    how = ReadOptions.of(config.select, config.axes, config.centred)
    if config.workers is not None and config.workers < 1:
        raise ValueError(f"workers is {config.workers}, expected at least 1")
    said: list[str] = []
    found = find_all(config.sources, said.append)
    opened = open_store(config.store, "a")
    with only_user(opened.location if opened.is_local else None, f"another conversion is writing to {config.store}"):
        known = opened.list_volumes(lambda error: said.append(str(error)))  # a damaged volume is made anew
        stored = {name: opened.attributes(name)["source"] for name in known}
        names = assign_names(found, stored)
        remove_leftovers(opened)
        skipped = {
            path: name
            for path, name in names.items()
            if name in stored
            and not config.overwrite
            and _has_all(stored[name].get("requested", []), requested)
            and stored[name].get("how", {}) == _said(how)
            and stored[name].get("precision", "float32") == config.precision
            and is_same(stored[name], path)
        }
        work = {path: name for path, name in names.items() if path not in skipped}
        done: dict[str, int] = {}
        failed: dict[str, str] = {}
        notes: dict[str, tuple[str, ...]] = {}
        if work:
            cpus = own_cpus(config.workers)
            with (
                ray_session(address, cpus=cpus, object_store_bytes=OBJECT_STORE_BYTES, echo=echo),
                progress(len(work), "volumes", quiet=quiet, echo=echo) as meter,
            ):
                for path, outcome in _run(work, config.workers, opened, requested, how, config.precision):
                    if isinstance(outcome, str):
                        failed[path] = outcome
                    else:
                        done[work[path]], notes[path] = outcome
                    meter.update(meter.done + 1, note=f"{sum(done.values()) / 1e6 / meter.elapsed:.0f} MB/s")
    return ConversionReport(
        converted=tuple(sorted(done)),
        skipped=tuple(sorted(skipped.values())),
        failed=dict(sorted(failed.items())),
        notes={path: sentences for path, sentences in sorted(notes.items()) if sentences},
        found=tuple(said),
        num_bytes=sum(done.values()),
        seconds=time.perf_counter() - started,
    )


def rss_target(kspace: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Root sum of squares over coils of full k-space (slice, coil, row, col), float32 (slice, rows, cols)."""
    import torch

    from kdrift.mri.fourier import ifft2c

    images = ifft2c(torch.from_numpy(kspace)).abs().square().sum(1).sqrt().numpy()
    return np.ascontiguousarray(centre_crop(images, rows, cols))


def _derived(volume: Volume, requested: Sequence[str]) -> dict[str, Derive]:
    """Return what to compute of each block of k-space; what is undersampled or partial Fourier has no target, which
    becomes a note of the volume."""
    info = volume.info
    derive: dict[str, Derive] = {}
    if info.kind == "kspace" and "target" in requested and not info.has_reference:
        if lack := _lack(volume):
            volume.info = replace(info, notes=(*info.notes, f"no target was computed: k-space {lack}"))
        else:
            derive["target"] = lambda kspace: rss_target(kspace, info.recon_rows, info.recon_cols)
    if info.kind == "kspace" and "smaps" in requested:
        derive["smaps"] = _estimate_smaps
    return derive


def _lack(volume: Volume) -> str:
    """Return why an image of the first, middle or last slice is no truth; empty where it is."""
    count = volume.info.num_slices
    found = [volume.sampling(volume.read_kspace(i, i + 1), i) for i in sorted({0, count // 2, count - 1})]
    if any(each.has_gaps for each in found):
        return "was measured undersampled"
    return "is partial Fourier" if any(each.is_one_sided for each in found) else ""


def _estimate_smaps(kspace: np.ndarray) -> np.ndarray:
    import torch

    from kdrift.mri.coils import espirit_maps

    return espirit_maps(torch.from_numpy(kspace)).numpy()


def _has_all(stored: Sequence[str], requested: Sequence[str]) -> bool:
    """Tell whether a volume holds all that is requested; complex images and k-space are no part of each other."""
    return set(requested) <= set(stored) and (COMPLEX in stored) == (COMPLEX in requested)


def _said(how: ReadOptions) -> dict[str, Any]:
    """Return what was said of a source, as its volume records it."""
    return {key: value for key, value in to_dict(how).items() if value not in ({}, None)}


def _run(work: dict[str, str], workers: int | None, *common: Any) -> Iterator[tuple[str, Outcome]]:
    """Run one Ray task a volume, at most `workers` at a time; yield path and outcome. `common` goes to all of them."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=1)(_convert_task)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(work.items())
    running = {task.remote(path, name, *common): path for path, name in itertools.islice(waiting, limit)}
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        path = running.pop(done)
        running |= {task.remote(path, name, *common): path for path, name in itertools.islice(waiting, 1)}
        try:
            yield path, ray.get(done)
        except ray.exceptions.RayError as error:
            yield path, f"worker failed: {first_line(error)}"


def _convert_task(
    path: str, name: str, store: Store, requested: Sequence[str], how: ReadOptions, precision: Precision = "float32"
) -> Outcome:
    """Ray task: convert one source."""
    try:
        with open_volume(path, how) as volume:
            asked = {"requested": list(requested), "how": _said(how), "precision": precision}
            source = {**fingerprint(path, with_hash=True), **asked}
            made = complex_images(volume) if COMPLEX in requested else volume
            derive = _derived(made, requested)
            num_bytes = write_volume(store, name, made, source=source, derive=derive, precision=precision)
            return num_bytes, store.read_volume(name).info.notes
    except Exception as error:  # one bad file must not stop the others; its reason is reported
        return one_line(error).removeprefix(f"{path}: ")
