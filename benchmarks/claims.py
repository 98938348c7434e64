"""What the four papers claim of their methods against each other, tried on scans that nothing was tuned on.

    python -m benchmarks.claims hfs_few_steps [--groups simulated noise_free real] [--out build/claims]
    python -m benchmarks.claims --all
    python -m benchmarks.claims --report         # rows of what has been run, into docs/claims.md

Nothing is trained. A claim writes its rows, whether it held on each group of scans in the mean and on how many of them,
and a picture. Masks are those of the paper's table, as its recipe has them. Reconstructions that --out has are not made
again. Rows are kept in benchmarks/results/claims, a file a claim, so that claims may be tried on different days; the
page says when and on what each was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import sem, t

from benchmarks.claim_runs import CLAIMS, Claim, Row, Rows, Run
from benchmarks.held_out import (
    GROUPS,
    REAL,
    REPOSITORY,
    SLICES,
    Group,
    Measured,
    Point,
    Scan,
    image_of,
    measure,
    scans,
    shown,
)
from benchmarks.table import machine
from kdrift import __version__

RESULTS = REPOSITORY / "benchmarks" / "results" / "claims"
"""Rows of the claims that were tried, kept with the project."""


def try_claim(
    name: str, groups: list[Group], out: Path, *, workers: int, count: int, device: str = "cpu"
) -> dict[str, Any]:
    """Run a claim; write into `RESULTS` and return its rows and whether it held, by group."""
    claim = CLAIMS[name]
    print(f"{name}: {claim.sentence} ({claim.source})", flush=True)
    measured = {"date": time.strftime("%Y-%m-%d"), "kdrift": __version__, **machine()}
    answer: dict[str, Any] = {"source": claim.source, "sentence": claim.sentence, "measured": measured, "groups": {}}
    devices = set[str]()
    for group in groups:
        chosen = scans(out, groups=(group,), count=count, patients=tuple(SLICES), real=REAL)
        points = [_point(run, scan) for run in claim.runs for scan in chosen]
        found = measure(points, out / "points", workers=workers, device=device)
        devices |= {each.device for each in found}
        rows = _rows(claim, found)
        alone = [claim.holds(_rows(claim, [each for each in found if each.scan == scan.name])) for scan in chosen]
        held = {"held": claim.holds(rows), "held_on": sum(alone), "scans": len(chosen)}
        answer["groups"][group] = {**held, "rows": [asdict(row) for row in rows.values()]}
        print(f"{name}, {group}: {_told(held)}", flush=True)
        _draw(out / f"{name}_{group}.png", claim, chosen[0], out / "points", answer["groups"][group])
    if devices != {"CPU"}:
        measured["processor"] = " and ".join(sorted(devices))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(answer, indent=1) + "\n")
    return answer


def _point(run: Run, scan: Scan) -> Point:
    coils = None if scan.group == "real" else run.coils
    return Point(run.label, scan, run.mask, run.plan, coils=coils, prior=run.prior)


def _rows(claim: Claim, found: list[Measured]) -> Rows:
    runs = {run.label: [each for each in found if each.label == run.label] for run in claim.runs}
    first = next(iter(runs.values()))
    return {label: _row(label, same, first) for label, same in runs.items()}


def _row(label: str, found: list[Measured], first: list[Measured]) -> Row:
    detail = next((each.detail for each in found if each.detail), "")
    means = {name: fmean(getattr(each, name) for each in found) for name in ("psnr", "ssim", "seconds", "std")}
    less = [one.psnr - each.psnr for one, each in zip(first, found, strict=True)]
    interval = None
    if found is not first and len(less) > 1:
        interval = fmean(less), float(t.ppf(0.975, len(less) - 1) * sem(less))
    nfe = max(each.nfe for each in found)
    return Row(label, found[0].net_acceleration, nfe=nfe, detail=detail, less=interval, **means)


def _told(answer: dict[str, Any]) -> str:
    told = "held" if answer["held"] else "did not hold"
    return f"{told} in the mean, held on {answer['held_on']} of {answer['scans']}"


def _draw(path: Path, claim: Claim, scan: Scan, folder: Path, answer: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    images = [image_of(_point(run, scan), folder) for run in claim.runs]
    reference = images[0][1]
    top = float(reference.max()) * 0.8
    figure, axes = plt.subplots(2, len(images) + 1, figsize=(2.4 * (len(images) + 1), 5.2), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, -1].imshow(reference, cmap="gray", vmin=0, vmax=top)
    axes[0, -1].set_title("reference", fontsize=8)
    for column, ((image, _), row) in enumerate(zip(images, answer["rows"], strict=True)):
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=top)
        axes[0, column].set_title(f"{row['label']}\n{row['psnr']:.1f} dB, {row['ssim']:.3f}", fontsize=8)
        axes[1, column].imshow(abs(image - reference), cmap="inferno", vmin=0, vmax=top / 5)
        axes[1, column].set_title("error x 5", fontsize=7)
    told = f"{shown(scan.group)}; figures of {answer['scans']} scans, pictures of {scan.name}"
    figure.suptitle(f"{claim.sentence}: {_told(answer)} ({told})", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def section(name: str, answer: dict[str, Any]) -> str:
    """Return the rows of a claim, as Markdown."""
    verdicts = [f"{shown(group)}: {_told(each)}" for group, each in answer["groups"].items()]
    at = answer["measured"]
    lines = [f"### {name}", "", f"{answer['sentence']} ({answer['source']}). **{'; '.join(verdicts)}.**"]
    lines += [f"Measured {at['date']}, kdrift {at['kdrift']}, torch {at['torch']}, {at['processor']}.", ""]
    lines += [
        "| scans | run | net | PSNR dB | dB below the first | SSIM | nfe | seconds | ms an evaluation | deviation |"
    ]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for group, each in answer["groups"].items():
        for values in each["rows"]:
            row = Row(**values)
            head = f"| {shown(group)} ({each['scans']}) | {row.label} | {row.net_acceleration:.2f}x | "
            if row.detail:
                lines.append(f"{head} diverged | | | | | | |")
                continue
            less = "" if row.less is None else f"{row.less[0]:.2f} ± {row.less[1]:.2f}"
            timed = not math.isnan(row.seconds)
            speed = f"{1000 * row.seconds_an_evaluation:.0f}" if timed and row.nfe else ""
            seconds = f"{row.seconds:.1f}" if timed else ""
            lines.append(
                f"{head}{row.psnr:.2f} | {less} | {row.ssim:.3f} | {row.nfe} | {seconds} | {speed} | {row.std:.4f} |"
            )
    return "\n".join(lines) + "\n"


def reported(page: str, results: Path = RESULTS) -> str:
    """Return the page with the sections of the claims that `results` has; those of others stay as they are."""
    head, mark, text = page.partition("<!-- generated -->\n\n")
    sections = {part.partition("\n")[0]: f"### {part}" for part in text.split("### ")[1:]}
    for name in CLAIMS:
        path = results / f"{name}.json"
        if path.exists():
            sections[name] = section(name, json.loads(path.read_text()))
    return head + mark + "\n".join(sections[name].strip("\n") + "\n" for name in CLAIMS if name in sections)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--all", action="store_true", help="every claim")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--scans", type=int, default=2, help="simulated scans of each of two patients, 1 or 2")
    parser.add_argument("--workers", type=int, default=2, help="reconstructions at a time, each on one core")
    parser.add_argument("--device", default="cpu", help="cuda: they share a GPU, and nothing is timed")
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--report", action="store_true", help="write docs/claims.md from the kept rows")
    arguments = parser.parse_args()
    names = list(CLAIMS) if arguments.all else arguments.names
    unknown = set(names) - set(CLAIMS)
    if unknown or not (names or arguments.report):
        parser.error(f"expected claims of {', '.join(CLAIMS)}, got {', '.join(unknown) or 'none'}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        answer = try_claim(
            name, arguments.groups, arguments.out, workers=arguments.workers, count=arguments.scans,
            device=arguments.device,
        )  # fmt: skip
        print(section(name, answer), flush=True)
    if arguments.report:
        path = REPOSITORY / "docs" / "claims.md"
        path.write_text(reported(path.read_text()))


if __name__ == "__main__":
    main()
