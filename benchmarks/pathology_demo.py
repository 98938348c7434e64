"""`kdrift pathology` on heads with lesions that are drawn in, and a small detector that is trained here.

`python -m benchmarks.pathology_demo --data DIR --out DIR` draws lesions of two kinds into slices of patients 01, 03 and
04, trains a detector of them on the CPU, exports it as TorchScript, draws others into patient 12, simulates its
k-space, reconstructs it undersampled by three methods, and runs `kdrift pathology`. Everything is simulated: the
figures show that the road works and what undersampling costs small lesions, and say nothing of real ones.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.trust_drawings import lesion
from kdrift.cli import main as kdrift
from kdrift.data.augment import pad_to, shrink
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.simulate import simulate_volume
from kdrift.evaluation.annotations import upright
from kdrift.mri.birdcage import birdcage_maps

SIDE, STRIDE = 128, 4
CLASSES = ("Mass", "Nonspecific white matter lesion")
MASKS = {f"equispaced{rate}": ["--mask", "equispaced", "--acceleration", str(rate)] for rate in (4, 8)}
METHODS = {
    "zero_filled": [],
    "tv": [],
    "annealed": ["--set", "num_steps=20", "--samples", "2"],
}
Array = np.ndarray[Any, np.dtype[Any]]


def heads(folder: Path, patients: list[str], contrast: str = "*", slices: int = 12) -> dict[str, Array]:
    """Return slices (slice, SIDE, SIDE) around the middle of the head, at most 1, by the name of the volume."""
    found = {}
    for path in sorted(
        p for patient in patients for p in (folder / "brain_nifti" / patient).glob(f"{contrast}.nii.gz")
    ):
        with open_volume(path) as volume:
            middle = volume.info.num_slices // 2
            picks = np.linspace(middle - volume.info.num_slices // 6, middle + volume.info.num_slices // 5, slices)
            images = [volume.read_image(int(i), int(i) + 1)[0].astype(np.float32) for i in picks]
        small = np.stack([shrink(pad_to(image, max(image.shape)), SIDE) for image in images]).clip(0)
        found[f"{path.parent.name}_{path.name.partition('.')[0]}"] = small / np.quantile(small, 0.999)
    return found


def with_lesions(image: Array, rng: np.random.Generator) -> tuple[Array, list[tuple[float, ...]]]:
    """Return an image with up to four lesions, and of each x0, y0, x1, y1 in the array and its class.

    A mass is that of `lesion`; the other kind is a bright spot of 3 to 7 pixels.
    """
    inside = scipy.ndimage.binary_fill_holes(scipy.ndimage.gaussian_filter(image, 2) > 0.12)
    allowed = scipy.ndimage.binary_erosion(inside, iterations=14)
    boxes: list[tuple[float, ...]] = []
    for _ in range(int(rng.integers(0, 5))):
        places = np.argwhere(allowed)
        if not len(places):
            break
        row, col = places[rng.integers(len(places))]
        kind = int(rng.random() < 0.6)
        if kind == 0:
            centre = tuple((np.array([row, col]) - SIDE // 2) / (SIDE / 2))
            after = lesion(image, centre=centre, radius=rng.uniform(0.07, 0.13))
        else:
            y, x = np.mgrid[:SIDE, :SIDE]
            far = np.hypot((y - row) / rng.uniform(1.5, 3.5), (x - col) / rng.uniform(1.5, 3.5))
            around = np.median(image[max(row - 5, 0) : row + 6, max(col - 5, 0) : col + 6])
            bright = (around * rng.uniform(1.4, 1.8)).clip(0.35)
            after = (image + (bright - image) * np.clip(1.5 - far, 0, 1)).astype(np.float32)
        rows, cols = np.nonzero(np.abs(after - image) > 0.03)
        if len(rows) < 4:
            continue
        box = (float(cols.min()), float(rows.min()), float(cols.max() + 1), float(rows.max() + 1), float(kind))
        boxes.append(box)
        image = after
        allowed[max(row - 20, 0) : row + 20, max(col - 20, 0) : col + 20] = False
    return image, boxes


class Detector(nn.Module):
    """Centres of boxes as a map for each class, with sizes and offsets (after Zhou et al. 2019, Objects as Points)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.classes = torch.jit.Attribute(list(CLASSES), list[str])
        steps = ((1, width, 1), (width, width, 2), (width, 2 * width, 1), (2 * width, 2 * width, 2))
        same = ((2 * width, 2 * width, 1),) * 3
        layers: list[nn.Module] = []
        for index, (given, made, stride) in enumerate((*steps, *same)):
            dilation = 2 if index > 4 else 1
            convolution = nn.Conv2d(given, made, 3, stride, padding=dilation, dilation=dilation)
            layers += [convolution, nn.GroupNorm(8, made), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(2 * width, len(CLASSES) + 4, 1))
        nn.init.constant_(self.body[-1].bias[: len(CLASSES)], -4.0)

    def maps(self, image: Tensor) -> Tensor:
        """Return logits of the classes, log width, log height and offsets, (batch, class + 4, row, col)."""
        return self.body(image)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (n, 4), scores (n,) and labels (n,) of one image (1, 1, row, col) in [0, 1]."""
        found = self.maps(image)[0]
        heat = torch.sigmoid(found[:2])
        peaks = heat * (heat == F.max_pool2d(heat[None], 3, 1, 1)[0])
        scores, where = peaks.flatten().topk(20)
        cells = heat.shape[1] * heat.shape[2]
        place = where % cells
        row, col = torch.div(place, heat.shape[2], rounding_mode="floor"), place % heat.shape[2]
        sizes = found[2:4].flatten(1)[:, place].exp()
        shift = found[4:6].flatten(1)[:, place]
        x, y = (col + 0.5 + shift[0]) * 4.0, (row + 0.5 + shift[1]) * 4.0
        corners = torch.stack([x - sizes[0] / 2, y - sizes[1] / 2, x + sizes[0] / 2, y + sizes[1] / 2], 1)
        return corners, scores, torch.div(where, cells, rounding_mode="floor")


def targets(boxes: list[tuple[float, ...]]) -> tuple[Tensor, Tensor]:
    """Return the map of each class, 1 at centres and Gaussian around, and (row, col, log w, log h, dx, dy) of boxes."""
    cells = SIDE // STRIDE
    heat, values = torch.zeros(len(CLASSES), cells, cells), []
    y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    for x0, y0, x1, y1, kind in boxes:
        col, row = (x0 + x1) / 2 / STRIDE - 0.5, (y0 + y1) / 2 / STRIDE - 0.5
        i, j = min(max(round(row), 0), cells - 1), min(max(round(col), 0), cells - 1)
        spread = max(0.15 * max(x1 - x0, y1 - y0) / STRIDE, 0.5)
        blob = torch.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * spread**2))
        heat[int(kind)] = torch.maximum(heat[int(kind)], blob)
        values.append([i, j, np.log(x1 - x0), np.log(y1 - y0), col - j, row - i])
    return heat, torch.tensor(values, dtype=torch.float32).reshape(-1, 6)


def loss(found: Tensor, heat: Tensor, values: list[Tensor]) -> Tensor:
    """Focal loss of the maps (Zhou et al. 2019, Eq. 1) and absolute errors of sizes and offsets at the centres."""
    p = torch.sigmoid(found[:, :2]).clamp(1e-4, 1 - 1e-4)
    at = heat == 1
    focal = torch.where(at, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log()).sum()
    number = max(int(at.sum()), 1)
    errors = [
        (found[index, 2:, each[:, 0].long(), each[:, 1].long()].T - each[:, 2:]).abs().sum()
        for index, each in enumerate(values)
        if len(each)
    ]
    return -focal / number + sum(errors, torch.zeros(())) / number


def train(images: Array, steps: int, seed: int = 0) -> Detector:
    """Train on slices (slice, SIDE, SIDE), with other lesions at every step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Detector()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    started, mean = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        drawn = []
        for pick in rng.integers(len(images), size=8):
            image, boxes = with_lesions(images[pick], rng)
            if rng.random() < 0.5:
                image, boxes = image[:, ::-1], [(SIDE - x1, y0, SIDE - x0, y1, k) for x0, y0, x1, y1, k in boxes]
            turned = [(x0, SIDE - y1, x1, SIDE - y0, k) for x0, y0, x1, y1, k in boxes]
            noisy = image + rng.normal(0, rng.uniform(0, 0.02), image.shape)
            drawn.append((upright(noisy / noisy.max()).copy(), *targets(turned)))
        batch = torch.from_numpy(np.stack([image for image, _, _ in drawn])[:, None]).float()
        value = loss(network.maps(batch), torch.stack([heat for _, heat, _ in drawn]), [v for _, _, v in drawn])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        mean += (float(value.detach()) - mean) / min(step, 50)
        if step % 100 == 0:
            print(f"step {step}: loss {mean:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval()


def draw_patient(folder: Path, out: Path, slices: int, seed: int = 1) -> list[str]:
    """Write k-space of patient 12 with lesions as fastMRI files and their boxes as `lesions.csv`; return the names."""
    rng, rows, names = np.random.default_rng(seed), [], []
    maps = birdcage_maps(8, SIDE, SIDE)
    for name, images in heads(folder, ["patient12"], "study1_*", slices).items():
        drawn = [with_lesions(image, rng) for image in images]
        kspace, reference = simulate_volume(np.stack([image for image, _ in drawn]), maps, noise_std=0.01, seed=seed)
        write_fastmri(out / "scans" / f"{name}.h5", kspace, reference=reference, attrs={"simulated": True})
        names.append(name)
        for number, (_, boxes) in enumerate(drawn):
            rows += [
                [name, number, "No", x0, SIDE - y1, x1 - x0, y1 - y0, CLASSES[int(kind)]]
                for x0, y0, x1, y1, kind in boxes
            ]
    with (out / "lesions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([["file", "slice", "study_level", "x", "y", "width", "height", "label"], *rows])
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with brain_nifti")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the detector")
    parser.add_argument("--slices", type=int, default=6, help="slices of each of three volumes")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    detector = given.out / "detector.pt"
    if not detector.is_file():
        known = np.concatenate(list(heads(given.data, ["patient01", "patient03", "patient04"]).values()))
        print(f"training a detector on {len(known)} slices")
        torch.jit.script(train(known, given.steps)).save(str(detector))
    for name in draw_patient(given.data, given.out, given.slices):
        for mask, sampling in MASKS.items():
            for method, settings in METHODS.items():
                cell = given.out / "cells" / mask / method / name
                if not (cell / "metrics.json").is_file():
                    words = ["reconstruct", str(given.out / "scans" / f"{name}.h5"), "--method", method, *settings]
                    assert kdrift([*words, *sampling, "--no-check", "--quiet", "--out", str(cell)]) == 0
    files = ["--annotations", str(given.out / "lesions.csv"), "--detector", str(detector)]
    kdrift(["pathology", *files, "--reconstructions", str(given.out / "cells"), "--out", str(given.out / "pathology")])


if __name__ == "__main__":
    main()
