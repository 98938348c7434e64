"""`kdrift pathology`: what a detector of pathology finds on reconstructions and on full images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import echo


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare boxes that a detector finds on reconstructions with those on full images and with annotations.

    Writes mAP50, precision, recall and Bland-Altman agreement as JSON and Markdown, and two pictures.
    """

    annotations: Annotated[str, Parameter(metavar="FILE.csv|URL")]
    """Boxes in the form of fastMRI+: file, slice, study_level, x, y, width, height, label."""
    detector: Annotated[str, Parameter(metavar="FILE.onnx|FILE.pt|URL")]
    """Exported detector, ONNX or TorchScript: a program that is run, so use none that you do not trust."""
    reconstructions: Annotated[tuple[str, ...], Parameter(metavar="DIR|URL", consume_multiple=True)]
    """Folders or URLs of reconstructions of undersampled full data, such as the cells of an evaluation."""
    out: Annotated[str, Parameter(metavar="DIR|URL")]
    """Folder for the results, or a URL such as s3://bucket/x."""
    classes: Annotated[str | None, Parameter(metavar="FILE.txt|URL")] = None
    """Names of the detector's labels 0, 1, ..., one a line; by default what the graph says."""
    confidence: float | None = None
    """Score from which a box counts; by default that of the largest F1 on full images."""
    quiet: bool = False
    """Print the table alone."""


def run(options: Options) -> int:
    """Detect, and print the tables."""
    from kdrift.evaluation.pathology import pathology
    from kdrift.evaluation.pathology_report import markdown
    from kdrift.runs.remote import copied

    lines: list[str] = []
    if options.classes:
        with copied(options.classes) as file:
            lines = file.read_text().splitlines()
    report = pathology(
        options.annotations,
        options.detector,
        options.reconstructions,
        options.out,
        classes=[line.strip() for line in lines if line.strip()],
        confidence=options.confidence,
        echo=(lambda _: None) if options.quiet else echo,
    )
    print(f"\n{markdown(report)}")
    print(f"written: {options.out}/pathology.json pathology.md boxes.png agreement.png")
    return 0
