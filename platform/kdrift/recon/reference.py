"""Whether a stored reference is the image of the k-space beside it: the same way round, each slice, of one scale."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.data.centring import centre_crop, fft_centred, ifft_centred
from kdrift.data.measured import BoolArray, Sampling
from kdrift.data.volume import FloatArray, Volume
from kdrift.recon.undersample import Kept

Images = npt.NDArray[np.float64]

SURE = 0.01
"""A reference whose correlation with the image lacks no more than this of 1 is that image."""
CLEARLY = 0.7
"""Another place or direction fits better where it lacks less than this part of what the reference as stored lacks. Of
real scans, 4 to 12 times undersampled with a centre, mirrored ones lack at most 0.64 of it; of references that fit,
with or without a centre, nothing else lacks less than 0.97."""
LIKELY = 0.7
"""What fits better counts from this correlation on; two heads have at most 0.74."""
ALIKE = 0.9
"""Images of full k-space and their reference have at least this correlation, whatever filter was between them."""
OF_EXPECTED = 0.6
"""An image of undersampled k-space has at least this part of the correlation with its reference that undersampling
leaves of a disc (real scans with a centre: 0.66 and more)."""
JUDGED = 0.75
"""Where undersampling leaves less correlation than this, as without a sampled centre, nothing can be said."""
SAME_SCALE, SHADED_SCALE, NEAR_SCALE, FAR_SCALE = 1.05, 1.5, 3.0, 10.0
"""Factors by which a reference may be brighter or darker: of full k-space, of that where the reference is shaded or
filtered (a correlation below 0.99), of undersampled k-space, and of such without a sampled centre."""

_TURNS: dict[str, Callable[[Images], Images]] = {
    "": lambda x: x,
    "mirrored left-right": lambda x: x[..., ::-1],
    "mirrored up-down": lambda x: x[..., ::-1, :],
    "turned by 180 degrees": lambda x: x[..., ::-1, ::-1],
    "transposed": lambda x: x.swapaxes(-2, -1),
    "turned clockwise by 90 degrees": lambda x: x.swapaxes(-2, -1)[..., ::-1, :],
    "turned anticlockwise by 90 degrees": lambda x: x.swapaxes(-2, -1)[..., ::-1],
    "transposed over the other diagonal": lambda x: x.swapaxes(-2, -1)[..., ::-1, ::-1],
}
"""What a reference may be of the image, in words, and what makes the image of it."""
AS_STORED = "figures are against the image that the file stores: right where that is the truth"
COMPUTED = (
    "the target in the store was computed of this k-space, so it is no reference of its own (if the source has one,"
    " convert it again)"
)


@dataclass(frozen=True)
class ReferenceFit:
    """How a stored reference resembles the image of its k-space."""

    correlation: float
    """Mean over slices, as stored."""
    scale: float
    """Least-squares factor from the reference to the image; of undersampled k-space, relative to what undersampling
    leaves of a disc. No figure is scaled by it."""
    compared_with: str
    """What image that is."""
    judged: bool
    """Whether undersampling leaves enough to tell a reference that fits from another."""
    doubts: tuple[str, ...]
    """Sentences on what does not fit; figures against such a reference are doubtful."""


@dataclass(frozen=True)
class _Match:
    """Where a slice's image is found in the reference, by slice and direction."""

    correlation: float
    slice: int
    turn: str = ""
    shift: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Reference:
    """What figures are against."""

    images: Tensor | None = None
    """`(slice, row, col)`; None: nothing."""
    definition: str = ""
    """How they were made."""
    fit: ReferenceFit | None = None
    notes: tuple[str, ...] = ()


def reference_of(
    opened: Volume, chosen: range, shown: FloatArray | None, shape: tuple[int, int], sampling: Sampling, kept: Kept
) -> Reference:
    """Return what figures of images of a `shape` are against: what the file stores, compared with `shown`, the image of
    its k-space; else that, where a mask left measured positions out."""
    info = opened.info
    computed = (COMPUTED,) if info.has_reference and not opened.is_truth_stored else ()
    if not (opened.is_truth_stored or kept.is_retrospective):
        return Reference(notes=computed)
    assert shown is not None
    if not opened.is_truth_stored:
        definition = f"rss of {'full k-space' if sampling.is_complete else 'the k-space as measured'}"
        return Reference(torch.from_numpy(shown), definition, notes=computed)
    stored = centre_crop(opened.read_image(chosen[0], chosen[-1] + 1), *shape)

    def other(index: int) -> FloatArray:
        return centre_crop(opened.read_image(index, index + 1)[0], *shape)

    fit = fit_reference(shown, stored, chosen, other, info.num_slices, sampling.measured)
    notes = [] if kept.is_retrospective else [AS_STORED]
    if fit is not None and fit.doubts:
        notes = [*fit.doubts, "figures are against the reference as stored, and are doubtful"]
    elif fit is not None and not fit.judged:
        notes.append("too little of the middle of k-space was measured to tell whether the stored reference fits it")
    return Reference(torch.from_numpy(stored.copy()), "stored reconstruction", fit, tuple(notes))


def fit_reference(
    shown: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    slices: Sequence[int],
    read: Callable[[int], npt.NDArray[np.float32]],
    num_slices: int,
    measured: BoolArray,
) -> ReferenceFit | None:
    """Compare the images of k-space with the reference that is stored beside it; None where one of them is empty.

    The reference is looked for mirrored, turned, shifted and at other slices only where it does not fit as it is, so
    that a good one costs a correlation. An object that looks the same mirrored raises no doubt.

    Parameters
    ----------
    shown
        Root sum of squares of the k-space as measured, `(slice, row, col)`.
    reference
        Its reference, of the same shape and any unit.
    slices
        Numbers of the slices in their volume.
    read
        Return the reference `(row, col)` of another slice, by its number.
    num_slices
        Slices of the volume.
    measured
        `(slice, row, col)` of the k-space, which may be larger than the images.
    """
    compared = [i for i in range(len(shown)) if np.ptp(shown[i]) > 0 and np.ptp(reference[i]) > 0]
    if not compared:
        return None
    images, stored = (np.asarray(each[compared], dtype=np.float64) for each in (shown, reference))
    numbers, full = [slices[i] for i in compared], bool(measured[compared].all())
    own = np.einsum("nyx,nyx->n", _unit(images), _unit(stored))
    unsure = [i for i, value in enumerate(own) if 1 - value > SURE]
    known = dict(zip(numbers, stored, strict=True))
    if unsure:
        around = {other for i in unsure for other in _others(numbers[i], num_slices)} - known.keys()
        known |= {other: np.asarray(read(other), dtype=np.float64) for other in around}
    found = {i: _found(images[i], numbers[i], known, float(own[i])) for i in unsure}
    better = {i: match for i, match in found.items() if match is not None}
    doubts = _misplaced({numbers[i]: match for i, match in better.items()}, own[list(better)], num_slices, len(numbers))
    expected, scales = np.ones(len(own)), np.ones(len(own))
    if not full:
        disc = _disc(*images.shape[1:])
        left = np.stack([_undersampled(disc, measured[i]) for i in compared])
        expected, scales = np.einsum("nyx,yx->n", _unit(left), _unit(disc)), np.array([_scale(disc, x) for x in left])
    scale = float(np.median([_scale(*pair) for pair in zip(stored, images, strict=True)] / scales))
    other = [i for i in unsure if i not in better and own[i] < _least(full, float(expected[i]))]
    if other:
        worst = min(other, key=lambda i: own[i])
        doubts.append(
            f"the stored reference{_of(other, numbers)} does not look like its k-space (correlation {own[worst]:.2f},"
            f" expected at least {_least(full, float(expected[worst])):.2f}): it is of another scan, slice or contrast,"
            " or was processed"
        )
    judged, alike = full or bool(np.median(expected) >= JUDGED), float(np.median(own)) > 1 - SURE
    limit = (SAME_SCALE if alike else SHADED_SCALE) if full else NEAR_SCALE if judged else FAR_SCALE
    if not other and not better and not 1 / limit < scale < limit:
        doubts.append(
            f"the stored reference has another scale than its k-space, {scale:.3g} times itself would fit; PSNR, SSIM"
            " and NMSE fit no scale"
        )
    image = "rss of full k-space" if full else "rss of the zero-filled k-space"
    return ReferenceFit(float(own.mean()), scale, image, judged, tuple(doubts))


def _least(full: bool, expected: float) -> float:
    """Return the correlation that a reference has at least; -1 where undersampling leaves too little to say."""
    return ALIKE if full else OF_EXPECTED * expected if expected >= JUDGED else -1.0


def _others(number: int, num_slices: int) -> set[int]:
    """Return the slices that a reference in another order would have in the place of one."""
    return {other for other in (number - 1, number + 1, num_slices - 1 - number) if 0 <= other < num_slices}


def _found(image: Images, number: int, known: dict[int, Images], own: float) -> _Match | None:
    """Return where the image of a slice is found, None where nothing fits clearly better than its own reference."""
    wanted, best = _unit(image), _Match(own, number)
    spectrum = np.fft.fft2(wanted)
    shifted = best
    for (other, values), (name, turn) in itertools.product(known.items(), _TURNS.items()):
        turned = turn(values)
        if turned.shape != image.shape:
            continue
        unit = _unit(turned)
        best = max(best, _Match(float((wanted * unit).sum()), other, name), key=lambda match: match.correlation)
        if other == number:
            products = np.fft.ifft2(spectrum * np.fft.fft2(unit).conj()).real
            row, col = np.unravel_index(int(products.argmax()), products.shape)
            down, right = (int((at + n // 2) % n - n // 2) for at, n in zip((row, col), image.shape, strict=True))
            match = _Match(float(products[row, col]), other, name, (down, right))
            shifted = max(shifted, match, key=lambda match: match.correlation)
    if _is_better(shifted.correlation, best.correlation):
        best = shifted
    return best if best.correlation > LIKELY and _is_better(best.correlation, own) else None


def _is_better(value: float, than: float) -> bool:
    return 1 - value < CLEARLY * (1 - than)


def _misplaced(found: dict[int, _Match], own: Images, num_slices: int, compared: int) -> list[str]:
    """Return a sentence for each kind of misfit, those of all slices as one."""
    kinds: dict[str, list[int]] = {}
    reverse = len(found) > 1 and all(match.slice == num_slices - 1 - number for number, match in found.items())
    for number, match in found.items():
        parts = [match.turn] if match.turn else []
        if any(match.shift):
            down, right = (-step for step in match.shift)
            parts.append(f"shifted by {down:+d} rows and {right:+d} columns")
        if reverse:
            parts.append("in reverse order of slices")
        elif match.slice != number:
            parts.append(f"shifted by {match.slice - number:+d} slice{'s' * (abs(match.slice - number) > 1)}")
        kinds.setdefault(", ".join(parts), []).append(number)
    place = {number: i for i, number in enumerate(found)}
    sentences = []
    for what, where in kinds.items():
        which = "" if len(where) == compared else f" of slice{'s' * (len(where) > 1)} {', '.join(map(str, where))}"
        there = np.mean([found[number].correlation for number in where])
        sentences.append(
            f"the stored reference{which} is the image of its k-space {what} (correlation {there:.2f}, as stored"
            f" {np.mean([own[place[number]] for number in where]):.2f})"
        )
    return sentences


def _of(places: Sequence[int], numbers: Sequence[int]) -> str:
    if len(places) == len(numbers):
        return ""
    return f" of slice{'s' * (len(places) > 1)} {', '.join(str(numbers[i]) for i in places)}"


def _disc(rows: int, cols: int) -> Images:
    row, col = np.ogrid[-rows / 2 : rows / 2, -cols / 2 : cols / 2]
    return np.asarray((row / (0.35 * rows)) ** 2 + (col / (0.35 * cols)) ** 2 < 1, dtype=np.float64)


def _undersampled(image: Images, measured: BoolArray) -> Images:
    """Return what the measured positions leave of an image, at the middle of the k-space's matrix."""
    rows, cols = measured.shape
    before = [size // 2 - have // 2 for size, have in zip((rows, cols), image.shape, strict=True)]
    padded = np.zeros((rows, cols))
    padded[tuple(slice(at, at + have) for at, have in zip(before, image.shape, strict=True))] = image
    left = np.abs(ifft_centred(fft_centred(padded, axes=(-2, -1)) * measured, axes=(-2, -1)))
    return np.asarray(centre_crop(left, *image.shape), dtype=np.float64)


def _scale(reference: Images, image: Images) -> float:
    return float((reference * image).sum() / (reference * reference).sum())


def _unit(images: Images) -> Images:
    """Return images `(*batch, row, col)` without their mean and of norm 1, zero where they are constant."""
    scaled = images / np.abs(images).max(axis=(-2, -1), keepdims=True).clip(min=np.finfo(np.float64).tiny)
    centred = scaled - scaled.mean(axis=(-2, -1), keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=(-2, -1), keepdims=True))
    return np.asarray(np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0))
