"""Quality against seconds over all methods, and each at its best: plots and tables of docs/choosing.md.

    python -m benchmarks.quality_seconds [--quick] [--groups simulated noise_free real] [--out build/quality] [--report]
    python -m benchmarks.quality_seconds --tuned --groups simulated real --report

Every method reconstructs the same slices (`benchmarks.held_out`, equispaced 4x, 8 % ACS) with 2 samples and rising
numbers of steps, each point in a process of one core. Seconds are of the sampler with its network for the 2 samples of
one slice. Nothing is tuned on these slices. Points that --out has are not made again.

`--tuned` takes the settings that searches of `configs/tune` found on other scans, for samplers and classical methods
alike, beside the networks that come with kdrift.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.held_out import FOUR, GROUPS, REPOSITORY, Group, Measured, Point, measure, scans, shown
from kdrift.methods import METHODS
from kdrift.recon.plan import DEFAULT_METHOD, Plan

FORMER = {"sigma_max": 3.0, "rho": 7.0, "prior_sigma": 0.3, "spread": 0.5, "noise_scale": 0.8}
"""The default's preset as it was first, with the magnitude prior: what the default has to beat."""


@dataclass(frozen=True)
class Line:
    """A method and the numbers of steps it is run with."""

    method: str
    steps: tuple[int, ...]
    preset: str | None = None
    prior: str | None = None
    coils: int | None = None
    masks: str = "all"
    """Which masks it takes, for the table."""
    name: str = ""
    """Of the curve, where method and preset do not say enough."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Over those of the preset."""

    @property
    def label(self) -> str:
        """Of the curve."""
        return self.name or self.method + (f" ({self.preset})" if self.preset else "")


LINES = (
    Line("annealed", (5, 10, 20, 40, 80)),
    Line(
        "annealed",
        (5, 10, 20, 40, 80),
        "tuned",
        "brain-magnitude",
        name="annealed, former default",
        settings=FORMER,
    ),
    Line("score_mri", (30, 100, 300), "paper"),
    Line("score_mri_ssos", (30, 100), "paper", coils=4, masks="2-D (the paper's choice)"),
    Line("score_mri_hybrid", (30, 100), "paper", coils=4, masks="1-D (the paper's choice)"),
    Line("dps", (100, 300), "paper"),
    Line("pigdm", (20, 50, 100), "paper"),
    Line("pnp_dm", (20, 60), "tuned"),
    Line("dds", (10, 20, 50), "paper"),
    Line("diffpir", (10, 30, 100), "paper"),
    Line("daps", (10, 40), "paper"),
    Line("red_diff", (100, 300, 1000), "paper"),
    Line("red_diff", (300,), "released"),
    Line("csgm_langevin", (45,), "stable"),
    Line("smrd", (60,), "released"),
    Line("pc_ve", (30, 100, 300), "paper_100"),
    Line("pc_vp", (30, 100, 300), "paper_100"),
    Line("hfs_sde", (30, 100, 300), "paper_100", masks="with a sampled centre"),
    Line("ak_diffusion", (20, 50), "tuned", masks="with a sampled centre"),
    Line("heat_diffusion", (50,), "released"),
)
BEST = (
    Line("annealed", (40,)),
    Line("dds", (40,), "tuned"),
    Line("dds", (40,), "paper"),
    Line("diffpir", (40,), "tuned"),
    Line("diffpir", (40,), "paper"),
    Line("dps", (40,), "tuned"),
    Line("dps", (40,), "paper"),
    Line("daps", (8, 40), "tuned"),
    Line("daps", (8,), "paper"),
    Line("hfs_sde", (100,), "tuned", masks="with a sampled centre"),
    Line("hfs_sde", (100,), "paper_100", masks="with a sampled centre"),
)
"""Samplers with searched settings, and with published ones at the same cost."""
SEARCHED = {"tv": {"weight": 0.00229}, "l1_wavelet": {"weight": 0.00311}}
"""What configs/tune/tv.yaml and l1_wavelet.yaml found; the best weight depends on the noise, so they are no presets."""
CLASSICAL = tuple(name for name, method in METHODS.items() if not method.needs_prior and name != "zero_filled")
LEARNED = ("unet", "varnet")
"""Networks that come with kdrift; one evaluation a slice."""


def points(
    folder: Path, groups: list[Group], *, quick: bool, count: int, only: list[str] | None = None, tuned: bool = False
) -> list[Point]:
    """Return every reconstruction to make; of the methods in `only` where there are some."""
    chosen = scans(folder, groups=tuple(groups), count=1 if quick else count)
    found = [Point(name, scan, FOUR, Plan(name)) for name in (*CLASSICAL, *LEARNED) for scan in chosen]
    if tuned:
        found += [
            Point(f"{name} (searched weight)", scan, FOUR, Plan(name, settings=settings))
            for name, settings in SEARCHED.items()
            for scan in chosen
        ]
    found = [point for point in found if not only or point.plan.method in only]
    for line in BEST if tuned else LINES:
        if only and line.method not in only:
            continue
        for steps in line.steps[:1] if quick else line.steps:
            plan = Plan(line.method, line.preset, {**line.settings, "num_steps": steps}, num_samples=2)
            for scan in chosen:
                coils = None if scan.group == "real" else line.coils
                found.append(Point(line.label, scan, FOUR, plan, line.prior, coils))
    return found


def averaged(found: list[Measured], group: Group) -> dict[str, list[dict[str, Any]]]:
    """Return of each label its points of rising seconds, averaged over the scans of a group."""
    together = defaultdict(list)
    for each in found:
        if each.group == group and not each.detail:
            together[each.label, each.config.get("options", {}).get("num_steps", 0)].append(each)
    lines = defaultdict(list)
    for (label, steps), same in together.items():
        values = {name: fmean(getattr(each, name) for each in same) for name in ("psnr", "ssim", "seconds", "peak_mib")}
        lines[label].append({"steps": steps, "nfe": max(each.nfe for each in same), **values})
    return {label: sorted(values, key=lambda value: value["seconds"]) for label, values in lines.items()}


def draw(path: Path, lines: dict[str, list[dict[str, Any]]], title: str) -> None:
    """Plot PSNR over seconds, a curve a method."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for position, (label, values) in enumerate(lines.items()):
        alone, default = label.partition(" ")[0] in (*CLASSICAL, *LEARNED), label == DEFAULT_METHOD
        axes.plot(
            [value["seconds"] for value in values], [value["psnr"] for value in values], label=label,
            marker="s" if alone else "o", markersize=5, linewidth=3 if default else 1.2,
            linestyle="none" if alone else "-", color="black" if default else colours[position % 20],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("seconds a slice, 2 samples, one core")
    axes.set_ylabel("PSNR dB")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(lines: dict[str, list[dict[str, Any]]]) -> str:
    """Return the best point of each method, best first, as Markdown."""
    masks = {line.label: line.masks for line in (*LINES, *BEST)}
    best = {label: max(values, key=lambda value: value["psnr"]) for label, values in lines.items()}
    text = ["| method | PSNR dB | SSIM | nfe | seconds | peak MiB | masks |", "|---|---:|---:|---:|---:|---:|---|"]
    for label, value in sorted(best.items(), key=lambda item: -item[1]["psnr"]):
        text.append(
            f"| {label} | {value['psnr']:.2f} | {value['ssim']:.3f} | {value['nfe'] or ''} | {value['seconds']:.1f} "
            f"| {value['peak_mib']:.0f} | {masks.get(label, 'all')} |"
        )
    return "\n".join(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first point of each method on one slice")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=["simulated"])
    parser.add_argument("--tuned", action="store_true", help="settings that searches found; the section of its own")
    parser.add_argument("--scans", type=int, default=2, help="simulated scans a group, 1 to 3")
    parser.add_argument("--workers", type=int, default=2, help="reconstructions at a time, each on one core")
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=list(METHODS), help="these alone")
    parser.add_argument("--out", type=Path, default=Path("build/quality"))
    parser.add_argument("--report", action="store_true", help="write picture and table into docs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = points(
        arguments.out, arguments.groups, quick=arguments.quick, count=arguments.scans, only=arguments.only,
        tuned=arguments.tuned,
    )  # fmt: skip
    found = measure(asked, arguments.out / "points", workers=arguments.workers)
    pictures = REPOSITORY / "docs" / "images" if arguments.report else arguments.out
    for group in arguments.groups:
        lines, name = averaged(found, group), f"tuned_{group}" if arguments.tuned else group
        picture = pictures / f"quality_seconds_{name}.png"
        draw(picture, lines, f"{shown(group)}, equispaced 4x, 8 % ACS")
        text = table(lines)
        print(f"{group}\n{text}\n{picture}")
        if arguments.report:
            path = REPOSITORY / "docs" / "choosing.md"
            head, mark, rest = path.read_text().partition(f"<!-- generated: {name} -->")
            path.write_text(f"{head}{mark}\n\n{text}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    main()
