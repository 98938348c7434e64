"""The report's parts: plots place values where they are, pictures are true PNGs, and names cannot break the page."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.evaluation.html_report import write_report
from kdrift.evaluation.paired import compare_methods
from kdrift.evaluation.slice_pictures import magma, png
from kdrift.evaluation.svg_plots import Curve, Group, agreement_plot, box_plot, curve_plot, nice_ticks
from kdrift.evaluation.table import Cell, markdown, observations, summarise
from kdrift.evaluation.table_files import latex
from kdrift.runs.config import parse

NASTY = '<script>alert("x")</script> & | _$'


def test_ticks_are_round_and_within() -> None:
    assert nice_ticks(29.2, 34.1) == [30, 31, 32, 33, 34]
    assert nice_ticks(0, 0.0123) == pytest.approx([0, 0.005, 0.01])
    assert nice_ticks(3, 3) == [3]


def test_pngs_are_what_they_show() -> None:
    values = np.arange(30, dtype=np.uint8).reshape(5, 6)
    grey = matplotlib_image.imread(io.BytesIO(png(values)))
    np.testing.assert_allclose(grey if grey.ndim == 2 else grey[..., 0], values / 255, atol=1e-6)
    coloured = matplotlib_image.imread(io.BytesIO(png(values, magma())))
    expected = np.frombuffer(magma(), dtype=np.uint8).reshape(256, 3)[values] / 255
    np.testing.assert_allclose(coloured[..., :3], expected, atol=1e-6)


def circles(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    return [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter() if c.tag.endswith("circle")]


def test_box_plot_has_its_values_and_quartiles() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    svg = box_plot([Group(NASTY, values, "#000", published=3.0)], "PSNR dB")
    assert NASTY not in svg
    xs = [x for x, _ in circles(svg)]
    assert np.diff(xs) / (xs[1] - xs[0]) == pytest.approx([1, 1, 1, 96], rel=0.2)
    assert "median 3, quartiles 2 to 4, 5 values" in svg
    whiskers = next(e for e in ElementTree.fromstring(svg).iter() if e.get("class") == "whisker")
    assert float(whiskers.get("x2", 0)) == pytest.approx(xs[3], abs=0.2)  # 100 lies beyond 1.5 boxes
    assert "published: 3" in svg
    assert box_plot([], "PSNR dB") == ""


def test_curves_are_logarithmic_where_values_span_much() -> None:
    curve = Curve("hfs", [(10, 20.0, 1.0), (100, 21.0, 1.0), (1000, 22.0, 1.0)], "#000", [(100, 23.0)])
    xs = [x for x, _ in circles(curve_plot([curve], "steps N", "PSNR dB"))]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    near = Curve("hfs", [(2, 20.0, 0.0), (4, 21.0, 0.0), (8, 22.0, 0.0)], "#000")
    xs = [x for x, _ in circles(curve_plot([near], "R", "PSNR dB"))]
    assert xs[2] - xs[1] == pytest.approx(2 * (xs[1] - xs[0]), abs=0.3)


def test_agreement_plot_has_bias_and_limits() -> None:
    svg = agreement_plot([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], ("a", NASTY), "PSNR dB")
    ElementTree.fromstring(svg)
    assert "bias: +2" in svg
    assert "lower limit: +0.04" in svg
    assert "upper limit: +3.96" in svg
    assert NASTY not in svg


def report(psnr: float, volume: str) -> dict[str, Any]:
    figures = {"psnr": psnr, "ssim": 0.9, "nmse": 0.01}
    by_slice = {str(n): {**figures, "psnr": psnr + n, "deviation": 0.01} for n in (0, 1)}
    return {"volume": volume, "simulated": True, "metrics": figures, "by_slice": by_slice, "seconds": 4.0,
            "slices": [0, 1], "nfe": 9, "net_acceleration": 3.5}  # fmt: skip


def example() -> tuple[EvaluateConfig, list[Cell]]:
    config = parse(EvaluateConfig, {
        "store": "s", "out": "o", "title": NASTY, "notes": [NASTY], "per": "slice", "compare": "a",
        "masks": {"m": {"kind": "gaussian1d"}},
        "methods": {"a": {"method": "annealed"}, "b": {"method": "tv"}},
        "published": [{"where": "Table 1", "mask": "m", "method": "a", "psnr": [31.25, 1.5]},
                      {"where": "Table 1", "mask": "m", "other": NASTY, "psnr": [33.0, None], "ssim": [0.5, 0.25]}],
    })  # fmt: skip
    return config, [Cell("m", "a", [report(30, NASTY), report(32, "w")]), Cell("m", "b", [report(28, NASTY)])]


def test_published_figures_stand_in_their_rows() -> None:
    config, cells = example()
    rows = summarise(cells, config.per, config.published)
    assert [(row["method"], row["data"]) for row in rows] == [
        ("a", "simulated"), ("b", "simulated"), (NASTY, "published")
    ]  # fmt: skip
    assert (rows[0]["slices"], rows[0]["psnr_mean"], rows[0]["psnr_published"], rows[0]["where"]) == (
        4, 31.5, 31.25, "Table 1"
    )  # fmt: skip
    assert rows[0]["psnr_std"] == pytest.approx(np.std([30, 31, 32, 33], ddof=1))
    assert (rows[1]["psnr_published"], rows[1]["where"]) == (None, None)
    text = markdown(rows, config)
    assert "| m | a | simulated | 2 | 4 | 31.50 ± 1.29 | 31.25 ± 1.5 | 0.9000 ± 0.0000 | - |" in text
    assert "| published | - | - | - | 33 | - | 0.5 ± 0.25 |" in text
    assert text.splitlines()[4].count("|") - text.splitlines()[4].count("\\|") == text.splitlines()[0].count("|")


def test_slices_of_an_older_version_are_refused() -> None:
    older = report(30, "v")
    del older["by_slice"]
    with pytest.raises(ValueError, match="an older kdrift made a of v; remove that folder"):
        summarise([Cell("m", "a", [older])], "slice")
    assert summarise([Cell("m", "a", [older])])[0]["psnr_mean"] == 30


def test_latex_is_escaped_and_bold_where_it_is_best() -> None:
    config, cells = example()
    text = latex(summarise(cells, config.per, config.published), config)
    assert r"\textbf{31.50 $\pm$ 1.29}" in text
    assert r"\textbf{28" not in text
    assert r"\& \textbar{} \_\$" in text
    assert text.count(r"\midrule") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({re.sub(r"\\&", "", line).count("&") for line in body}) == 1


def test_page_opens_alone_and_names_cannot_break_it(tmp_path: Any) -> None:
    config, cells = example()
    observed = observations(cells, config.per)
    rows = summarise(cells, config.per, config.published)
    write_report(tmp_path / "report.html", config, {}, rows, observed, compare_methods(observed, "a"))
    page = (tmp_path / "report.html").read_text()
    check_alone(page)
    assert NASTY not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script>") == 1
    assert "too few to tell methods apart" in page
    for part in ("results", "distributions", "comparisons", "methods"):
        assert f'<section id="{part}">' in page
    assert page.count("<svg") == 2 + 1  # boxes of two figures, one agreement


def check_alone(page: str) -> None:
    """Nothing is fetched: every source is data, every link is within the page."""
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", page), "an address"
    assert not re.findall(r"<(?:link|iframe|object|embed|base)\b|@import|url\(", page)
    sources = re.findall(r"""\b(?:src|href|srcset|action|data)=["']?([^"'\s>]*)""", page)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
