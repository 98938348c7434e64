"""A detector of pathology as an exported graph, TorchScript or ONNX: an image in, boxes, scores and labels out.

The graph takes float32 `(1, 1, row, col)`, a magnitude image in [0, 1] (divided by its maximum) in the frame of the
annotations. It returns boxes `(n, 4)` as x0, y0, x1, y1 in pixels of that image, scores `(n,)` and labels `(n,)`, whole
numbers that count in its classes, after whatever suppression of overlapping boxes it needs.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrift.evaluation.annotations import Array, Boxes

Graph = Callable[[Array], Sequence[Any]]
Detector = Callable[[Array], Boxes]
"""Takes an upright magnitude image `(row, col)` of any scale."""


def load_detector(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Detector:
    """Load a detector: `.onnx` by onnxruntime (the extra `onnx`), all else as TorchScript, on the CPU.

    `classes` are the names of its labels 0, 1, ...; by default what the graph carries: a JSON list under `classes` in
    the metadata of ONNX, an attribute `classes` (a list of texts) of TorchScript.

    TorchScript and ONNX graphs are programs of their own: load none that you would not run.

    Raises ValueError for a file that is neither, and where classes are named nowhere.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no detector {path}: expected an exported graph, .onnx or TorchScript (.pt)")
    graph, own = _onnx(path) if path.suffix == ".onnx" else _torchscript(path)
    names = tuple(classes or own)
    if not names:
        raise ValueError(f"{path} does not say what its labels mean: give their names, in order, with --classes")

    def detect(image: Array) -> Boxes:
        return boxes_of(graph(scaled(image)), names, path)

    return detect


def scaled(image: Array) -> Array:
    """Return a magnitude image `(row, col)` as detectors take it: float32 `(1, 1, row, col)`, its maximum 1."""
    top = float(image.max(initial=0.0))
    return np.ascontiguousarray(image[None, None] / (top if top > 0 else 1.0), dtype=np.float32)


def boxes_of(found: Sequence[Any], classes: Sequence[str], path: Path) -> Boxes:
    """Return what a graph returned as boxes, by falling score; those of no extent are left out.

    Raises ValueError where it is not boxes, scores and labels.
    """
    if not isinstance(found, (tuple, list)) or len(found) != 3:
        count = len(found) if isinstance(found, (tuple, list)) else 1
        raise ValueError(f"{path} returns {count} values, expected 3: boxes (n, 4), scores (n,) and labels (n,)")
    corners, scores, numbers = (np.asarray(each) for each in found)
    shapes = f"boxes {corners.shape}, scores {scores.shape}, labels {numbers.shape}"
    if corners.ndim != 2 or corners.shape[1:] != (4,) or scores.shape != numbers.shape or scores.ndim != 1:
        raise ValueError(f"{path} returns {shapes}, expected boxes (n, 4), scores (n,) and labels (n,)")
    if len(corners) != len(scores) or numbers.dtype.kind not in "iu":
        raise ValueError(f"{path} returns {shapes} of {numbers.dtype}, expected as many of each, labels whole numbers")
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(classes)):
        raise ValueError(f"{path} returns label {numbers.max()} and has {len(classes)} classes: {', '.join(classes)}")
    order = np.argsort(-scores, kind="stable")
    order = order[(corners[order, 2:] > corners[order, :2]).all(1)]
    labels = tuple(classes[int(number)] for number in numbers[order])
    return Boxes(corners[order].astype(np.float64), labels, scores[order].astype(np.float64))


def _torchscript(path: Path) -> tuple[Graph, Sequence[str]]:
    try:
        with warnings.catch_warnings():  # torch deprecates its own format; detectors are still exported to it
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no TorchScript ({first}): export it with torch.jit.script or trace") from None

    @torch.no_grad()
    def run(image: Array) -> Sequence[Any]:
        found = module(torch.from_numpy(image))
        return [each.numpy() for each in found] if isinstance(found, (tuple, list)) else [found]

    return run, list(getattr(module, "classes", []))


def _onnx(path: Path) -> tuple[Graph, Sequence[str]]:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{path} needs onnxruntime: pip install 'kdrift[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions share no class
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} cannot be read as ONNX: {first}") from None
    inputs = [each.name for each in session.get_inputs()]
    if len(inputs) != 1:
        raise ValueError(f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}), expected one image")
    said = session.get_modelmeta().custom_metadata_map.get("classes", "[]")
    return lambda image: session.run(None, {inputs[0]: image}), [str(each) for each in json.loads(said)]
