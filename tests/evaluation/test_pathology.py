"""`kdrift pathology`: exported detectors, and from reconstructions and annotations to tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.cli import main
from kdrift.evaluation.annotations import Boxes
from kdrift.evaluation.detector import boxes_of, load_detector
from kdrift.evaluation.pathology import WRITTEN, find_reconstructions, pathology
from s3_helpers import Server

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
SIDE = 40
SPOTS = {0: [(5, 8, 6, 4)], 1: [(20, 10, 8, 8), (4, 28, 5, 5)], 2: []}
"""Spots of each slice: x, y, width and height in the upright image."""


class Spots(torch.nn.Module):
    """Finds what is above half of the maximum in each quarter of the image; the score is its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = torch.jit.Attribute(["Spot"], list[str])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        corners, scores = [torch.zeros(0, 4)], [torch.zeros(0)]
        half_rows, half_cols = image.shape[2] // 2, image.shape[3] // 2
        for row in [0, half_rows]:
            for col in [0, half_cols]:
                part = image[0, 0, row : row + half_rows, col : col + half_cols]
                found = torch.nonzero(part > 0.5)
                if len(found) > 0:
                    low, high = found.min(0)[0], found.max(0)[0] + 1
                    box = torch.stack([low[1] + col, low[0] + row, high[1] + col, high[0] + row])
                    corners.append(box.float()[None])
                    scores.append(part[part > 0.5].mean()[None])
        boxes = torch.cat(corners)
        return boxes, torch.cat(scores), torch.zeros(len(boxes), dtype=torch.int64)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    torch.jit.script(Spots()).save(str(tmp_path / "spots.pt"))
    return tmp_path / "spots.pt"


def write_annotations(path: Path, name: str = "scan") -> Path:
    rows = [f"{name},{n},No,{x},{y},{w},{h},Spot" for n, spots in SPOTS.items() for x, y, w, h in spots]
    path.write_text(
        "\n".join(["file,slice,study_level,x,y,width,height,label", *rows, f"{name},0,Yes,,,,,Fine"]) + "\n"
    )
    return path


def images(missing: tuple[int, int] | None = None) -> np.ndarray:
    """Return the slices as kdrift has them; of a slice, one spot may be missing."""
    found = np.full((len(SPOTS), SIDE, SIDE), 0.1, dtype=np.float32)
    for number, spots in SPOTS.items():
        for index, (x, y, width, height) in enumerate(spots):
            if (number, index) != missing:
                found[number, y : y + height, x : x + width] = 0.9
        found[number, -1, -1] = 1.0 if number == 2 else 0.1
    return found[:, ::-1]


def write_reconstruction(
    folder: Path, values: np.ndarray, *, volume: str = "val_scan", failed: tuple[int, ...] = ()
) -> None:
    folder.mkdir(parents=True)
    with h5py.File(folder / "reconstruction.h5", "w") as file:
        file["reconstruction"], file["reference"] = 3 * values, images()
        file.attrs["kdrift"] = json.dumps({"volume": volume, "slices": [0, 1, 2]})
        if failed:
            file.attrs["failed_slices"] = np.array(failed)


def test_torchscript_detector_finds_what_is_there(detector: Path) -> None:
    detect = load_detector(detector)
    for number, spots in SPOTS.items():
        found = detect(images()[number, ::-1])
        expected = {(x, y, x + w, y + h) for x, y, w, h in spots} or {(39, 39, 40, 40)}
        assert {tuple(box) for box in found.corners.astype(int)} == expected
        assert set(found.labels) == {"Spot"}
        assert found.scores.tolist() == sorted(found.scores, reverse=True)


def test_onnx_detector_is_asked_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "row", "col"])
    made = [helper.make_tensor_value_info(n, t, s) for n, t, s in (
        ("boxes", TensorProto.FLOAT, [1, 4]), ("scores", TensorProto.FLOAT, [1]), ("labels", TensorProto.INT64, [1]),
    )]  # fmt: skip
    corners = helper.make_tensor("c", TensorProto.FLOAT, [1, 4], [1.0, 2.0, 5.0, 7.0])
    label = helper.make_tensor("l", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Constant", [], ["boxes"], value=corners),
        helper.make_node("Constant", [], ["labels"], value=label),
        helper.make_node("ReduceMax", ["image"], ["top"], keepdims=0),
        helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [1], [1])),
        helper.make_node("Reshape", ["top", "shape"], ["scores"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], made), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    helper.set_model_props(model, {"classes": json.dumps(["Mass", "Lesion"])})
    onnx.save(model, str(tmp_path / "d.onnx"))
    found = load_detector(tmp_path / "d.onnx")(7 * np.ones((9, 11)))
    assert found.corners.tolist() == [[1, 2, 5, 7]]
    assert found.labels == ("Lesion",)
    assert found.scores.tolist() == [1.0]  # the image was divided by its maximum


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ((np.zeros((1, 4)),), "returns 1 values, expected 3"),
        ((np.zeros((1, 5)), np.zeros(1), np.zeros(1, int)), r"expected boxes \(n, 4\)"),
        ((np.zeros((1, 4)), np.zeros(1), np.zeros(1)), "labels whole numbers"),
        ((np.zeros((1, 4)), np.zeros(1), np.ones(1, int)), "returns label 1 and has 1 classes"),
    ],
)
def test_what_is_no_detection_is_named(returned: tuple[np.ndarray, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        boxes_of(returned, ["Spot"], Path("d.pt"))


def test_detectors_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no detector"):
        load_detector(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is no TorchScript"):
        load_detector(tmp_path / "bad.pt")
    torch.jit.trace(torch.nn.Identity(), torch.zeros(1)).save(str(tmp_path / "silent.pt"))
    with pytest.raises(ValueError, match="--classes"):
        load_detector(tmp_path / "silent.pt")
    assert load_detector(tmp_path / "silent.pt", ["a"])


def test_report_of_perfect_and_lossy_images(tmp_path: Path, detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One method keeps everything, the other loses one spot of three: recall 2/3, one box fewer in one of three."""
    write_reconstruction(tmp_path / "cells" / "mask" / "good" / "val_scan", images())
    write_reconstruction(tmp_path / "cells" / "mask" / "lossy" / "val_scan", images(missing=(1, 1)))
    words = ["pathology", "--annotations", str(write_annotations(tmp_path / "a.csv")), "--detector", str(detector)]
    words += ["--reconstructions", str(tmp_path / "cells"), "--out", str(tmp_path / "out"), "--confidence", "0.5"]
    assert main(words) == 0
    report = json.loads((tmp_path / "out" / "pathology.json").read_text())
    full, good, lossy = (report["methods"][name] for name in ("full", "mask/good", "mask/lossy"))
    assert report["boxes"] == {"Spot": 3}
    assert (full["right"], full["wrong"], full["missed"]) == (3, 1, 0)  # the bright corner of the last slice is wrong
    assert {key: good[key] for key in full} == full
    assert good["agreement"]["count"] == {"number": 3, "bias": 0, "std": 0, "limits": [0, 0]}
    assert good["agreement"]["area"]["number"] == 4
    assert lossy["recall"] == pytest.approx(2 / 3)
    assert lossy["agreement"]["count"]["bias"] == pytest.approx(-1 / 3)
    assert lossy["agreement"]["ap50"]["bias"] == pytest.approx(lossy["map50"] - full["map50"])
    assert report["annotations"]["study_level_rows_not_used"] == 1
    text = (tmp_path / "out" / "pathology.md").read_text()
    assert "| mask/lossy | " in text
    assert text.strip() in capsys.readouterr().out
    for name in ("boxes.png", "agreement.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"


def test_confidence_is_chosen_on_full_images(tmp_path: Path, detector: Path) -> None:
    write_reconstruction(tmp_path / "one" / "val_scan", images())
    report = pathology(
        write_annotations(tmp_path / "a.csv"), detector, [tmp_path / "one"], tmp_path / "out", echo=lambda _: None
    )
    assert list(report["methods"]) == ["full", "one"]
    assert report["methods"]["full"]["recall"] == 1
    assert report["confidence_from"].startswith("largest F1")


def test_failed_slices_are_left_out_of_all(tmp_path: Path, detector: Path) -> None:
    write_reconstruction(tmp_path / "a" / "val_scan", images())
    write_reconstruction(tmp_path / "b" / "val_scan", 0 * images(), failed=(0,))
    report = pathology(
        write_annotations(tmp_path / "a.csv"), detector, [tmp_path / "a", tmp_path / "b"], tmp_path / "out",
        echo=lambda _: None,
    )  # fmt: skip
    assert report["slices"] == 2
    assert report["boxes"] == {"Spot": 2}
    assert "1 slices could not be reconstructed" in report["notes"][0]
    assert report["methods"]["b"]["recall"] == 0
    assert report["methods"]["b"]["precision"] is None


def test_what_cannot_be_compared_is_named(tmp_path: Path, detector: Path) -> None:
    marked, quiet = write_annotations(tmp_path / "a.csv"), lambda _: None

    def run(*folders: Path, csv: Path = marked) -> None:
        pathology(csv, detector, folders, tmp_path / "out", echo=quiet)

    with pytest.raises(ValueError, match=r"holds no reconstruction.h5"):
        run(tmp_path)
    write_reconstruction(tmp_path / "a" / "val_scan", images())
    with pytest.raises(ValueError, match="are both of val_scan by a"):
        run(tmp_path / "a", tmp_path / "a")
    other = write_annotations(tmp_path / "o.csv", "elsewhere")
    with pytest.raises(ValueError, match="none of 3 slices of val_scan has a box"):
        run(tmp_path / "a", csv=other)
    write_reconstruction(tmp_path / "b" / "other_scan", images(), volume="other_scan")
    with pytest.raises(ValueError, match="a and b have other slices"):
        run(tmp_path / "a", tmp_path / "b")
    far = tmp_path / "far.csv"
    far.write_text("file,slice,study_level,x,y,width,height,label\nscan,0,No,300,10,5,5,Spot\n")
    with pytest.raises(ValueError, match="a box outside of it"):
        run(tmp_path / "a", csv=far)
    with h5py.File(tmp_path / "b" / "other_scan" / "reconstruction.h5", "a") as file:
        del file["reference"]
    with pytest.raises(ValueError, match="has no images of full data"):
        find_reconstructions([tmp_path / "b"])


def test_boxes_know_their_own() -> None:
    found = Boxes(np.array([[0, 0, 2, 3], [1, 1, 2, 2]]), ("a", "b"), np.array([0.5, 0.9]))
    assert found.areas.tolist() == [6, 1]
    assert found.of("b").scores.tolist() == [0.9]


def test_all_of_it_at_urls(
    server: Server, url: str, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reconstruction(tmp_path / "cells" / "mask" / "good" / "val_scan", images())
    write_annotations(tmp_path / "a.csv")
    (tmp_path / "names.txt").write_text("Spot\n")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            server.write(f"{url}/{path.relative_to(tmp_path)}", path.read_bytes())

    def words(place: object, out: object) -> list[str]:
        return ["pathology", "--annotations", f"{place}/a.csv", "--detector", f"{place}/{detector.name}", "--classes",
                f"{place}/names.txt", "--reconstructions", f"{place}/cells", "--out", str(out)]  # fmt: skip

    assert main(words(tmp_path, tmp_path / "out")) == 0
    here = json.loads((tmp_path / "out/pathology.json").read_text())
    for _ in range(2):  # it is replaced
        assert main(words(url, f"{url}/out")) == 0
        assert server.shown(f"{url}/out") == sorted(WRITTEN)
        assert server.read_json(f"{url}/out/pathology.json") == here
    capsys.readouterr()
    assert main(words(f"{url}/elsewhere", f"{url}/out")) == 1
    assert f"there is nothing at {url}/elsewhere/names.txt" in capsys.readouterr().err
