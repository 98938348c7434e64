"""What `kdrift pathology` found, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report."""
    boxes = ", ".join(f"{count} {label}" for label, count in report["boxes"].items())
    lines = [
        f"{report['volumes']} volumes, {report['slices']} slices; annotated: {boxes}. Detector"
        f" `{report['detector']['file']}`; boxes from a score of {report['confidence']:.3g}"
        f" ({report['confidence_from']}), found where they overlap by {report['overlap']:g}.",
        "",
        "| images | mAP50 | precision | recall | right | wrong | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, row in report["methods"].items():
        figures = " | ".join(_shown(row[name]) for name in ("map50", "precision", "recall"))
        lines.append(f"| {method} | {figures} | {row['right']} | {row['wrong']} | {row['missed']} |")
    lines += ["", "Average precision (AP50) by class:", "", "| images | " + " | ".join(report["boxes"]) + " |"]
    lines.append("|---" * (1 + len(report["boxes"])) + "|")
    for method, row in report["methods"].items():
        lines.append(f"| {method} | " + " | ".join(_shown(row["ap50"][label]) for label in report["boxes"]) + " |")
    lines += [
        "",
        "Agreement with the images of full data: bias [limits of agreement] (number).",
        "",
        "| images | AP50 of a class | boxes a slice | area of a box, pixels |",
        "|---|---|---|---|",
    ]
    for method, row in report["methods"].items():
        if "agreement" in row:
            lines.append(f"| {method} | " + " | ".join(_limits(row["agreement"][w]) for w in row["agreement"]) + " |")
    notes = [f"- {note}" for note in report["notes"]]
    return "\n".join([*lines, *(["", *notes] if notes else []), "", report["notice"]]) + "\n"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _limits(found: Mapping[str, Any]) -> str:
    if found["bias"] is None:
        return "- (0)"
    limits = "" if found["limits"] is None else " [{:.3g}, {:.3g}]".format(*found["limits"])
    return f"{found['bias']:.3g}{limits} ({found['number']})"
