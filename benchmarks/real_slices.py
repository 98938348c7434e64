"""Posterior sampling against tuned classical baselines on real k-space.

    python -m benchmarks.real_slices --out build/real_slices [--prior PATH] [--samples 8] [--only graz4] ...

Every baseline gets the regularisation that is best on that very slice, by PSNR; the best SSIM that any of its
weights reaches is reported beside it, so that neither figure is understated. All methods get the same
undersampled data. Coil maps are ESPIRiT's, from the ACS of those data; from there the posterior fits its own with the
prior, unless --maps espirit is said. PSNR, SSIM and NMSE
are fastMRI's, on the magnitude at the reference's size, a volume of one slice; `reconstruction_rss` or
`reconstruction_esc` of the file is the reference. The row "all of k-space" combines fully sampled data with
the same maps: what no method can beat by much. Tuned baselines are kept in --out and used again for the same
data.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.best_weight import GRIDS, tune
from benchmarks.held_out import DATA
from kdrift.data.centring import centre_crop
from kdrift.data.formats import open_volume
from kdrift.measures.metrics import evaluate
from kdrift.mri.coils import combine, espirit_maps
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import SamplingMask, make_mask
from kdrift.recon.panel import save_panel
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.result import ReconstructionResult
from kdrift.runs.config import parse_override
from kdrift.runs.files import whole_file, write_json, write_text
from kdrift.runs.hardware import keep_freed_memory
from kdrift.trust.uncertainty import summary

TITLES = {"cg_sense": "CG-SENSE", "tv": "TV", "l1_wavelet": "l1-wavelet"}


@dataclass(frozen=True)
class Case:
    """One real slice and how it is undersampled."""

    name: str
    group: str
    file: str
    kind: str
    acceleration: float
    acs_fraction: float
    methods: tuple[str, ...]


CASES = (
    Case("graz_4x", "graz4", "graz_t2_4ch.h5", "equispaced", 4, 0.08, ("cg_sense", "tv", "l1_wavelet")),
    Case("graz_8x", "graz8", "graz_t2_4ch.h5", "equispaced", 8, 0.04, ("cg_sense", "tv", "l1_wavelet")),
    Case("wastling_8x", "single", "wastling_t2_1ch.h5", "gaussian2d", 8, 0.04, ("tv", "l1_wavelet")),
    Case("larson_8x", "single", "larson_t1_sag_1ch.h5", "gaussian2d", 8, 0.04, ("tv", "l1_wavelet")),
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    method: str
    psnr: float
    ssim: float
    nmse: float
    #: best SSIM over all weights tried, for baselines.
    best_ssim: float | None = None
    weight: float | None = None
    seconds: float | None = None
    nfe: int | None = None
    #: of `kdrift.trust.uncertainty.DEFINITIONS`.
    coverage: float | None = None
    std_error_ratio: float | None = None
    std_error_rank_correlation: float | None = None
    ause: float | None = None
    ause_random: float | None = None


@dataclass(frozen=True)
class Slice:
    """The data of a case; kspace and smaps (coil, row, col), reference (row, col)."""

    full: Tensor
    kspace: Tensor
    sampling: SamplingMask
    smaps: Tensor
    reference: Tensor


def load(case: Case, args: argparse.Namespace) -> Slice:
    with open_volume(str(args.data / "kspace" / case.file)) as volume:
        full = torch.from_numpy(volume.read_kspace(0, 1)[0])
        reference = torch.from_numpy(volume.read_image(0, 1)[0])
    sampling = make_mask(
        case.kind,
        (full.shape[-2], full.shape[-1]),
        acceleration=case.acceleration,
        acs_fraction=case.acs_fraction,
        seed=args.mask_seed,
        released=args.every_rth_line and case.kind == "equispaced",
    )
    kspace = full * sampling.mask
    if len(full) == 1:
        return Slice(full, kspace, sampling, torch.ones_like(full), reference)
    smaps = espirit_maps(kspace, kernel_size=args.kernel_size, threshold=args.threshold, crop=args.crop)
    return Slice(full, kspace, sampling, smaps, reference)


def magnitude(image: Tensor, reference: Tensor) -> Tensor:
    return torch.from_numpy(centre_crop(image.abs().numpy(), *reference.shape).copy())


def baselines(case: Case, data: Slice, folder: Path) -> tuple[list[Row], dict[str, Tensor]]:
    """Rows and magnitudes of what needs no prior, from `folder` where the same data were tuned before."""
    digest = hashlib.sha256(repr((case, sorted(GRIDS.items()))).encode())
    for array in (data.kspace, data.smaps, data.reference):
        digest.update(array.numpy().tobytes())
    kept = folder / f"{case.name}_baselines_{digest.hexdigest()[:12]}.pt"
    if not kept.exists():
        rows, images = tune_baselines(case, data)
        with whole_file(kept) as temporary:
            torch.save({"rows": [asdict(row) for row in rows], "images": images}, temporary)
    stored = torch.load(kept, weights_only=True)
    return [Row(**row) for row in stored["rows"]], stored["images"]


def tune_baselines(case: Case, data: Slice) -> tuple[list[Row], dict[str, Tensor]]:
    images = {
        "all of k-space": combine(ifft2c(data.full), data.smaps),
        "zero-filled": combine(ifft2c(data.kspace), data.smaps),
    }
    images = {name: magnitude(image, data.reference) for name, image in images.items()}
    rows = [Row(case.name, name, **evaluate(data.reference, image)) for name, image in images.items()]
    for name in case.methods:
        tuned = tune(name, data.kspace, data.sampling.mask, data.smaps, data.reference)
        images[TITLES[name]] = magnitude(tuned.image, data.reference)
        rows.append(
            Row(
                case.name,
                TITLES[name],
                **tuned.best.metrics,
                best_ssim=tuned.best_value("ssim"),
                weight=tuned.weight,
                seconds=tuned.best.seconds,
            )
        )
        print(f"{case.name}: {rows[-1]}", flush=True)
    return rows, images


def posterior(case: Case, data: Slice, args: argparse.Namespace) -> tuple[Row, Tensor, ReconstructionResult]:
    plan = Plan(
        method=args.method,
        preset=args.preset,
        settings=dict(parse_override(text) for text in args.set),
        num_samples=args.samples,
        seed=args.seed,
        maps=args.maps,
    )
    smaps = data.smaps[None] if args.maps == "espirit" else None
    result = reconstruct(data.kspace[None], data.sampling.mask, plan=plan, prior=args.prior, smaps=smaps)
    mean, std = (magnitude(image[0], data.reference) for image in (result.mean, result.std))
    row = Row(
        case.name,
        f"{args.method}, mean of {args.samples}",
        **evaluate(data.reference, mean),
        seconds=result.seconds,
        nfe=result.nfe,
        **summary(mean, std, data.reference, plan.level),
    )
    print(f"{case.name}: {row}", flush=True)
    return row, mean, result


def run_case(case: Case, args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    data = load(case, args)
    print(f"{case.name}: {data.sampling.description}", flush=True)
    rows, images = baselines(case, data, args.out)
    others = {name: image for name, image in images.items() if name in TITLES.values()}
    about: dict[str, Any] = {"case": asdict(case), "net_acceleration": data.sampling.net_acceleration}
    shown: dict[str, Any] = {}
    if args.baselines_only:
        shown["mean_title"], shown["mean"] = others.popitem()
    else:
        row, shown["mean"], result = posterior(case, data, args)
        rows.append(row)
        shown["std"] = magnitude(result.std[0], data.reference)
        shown["captions"] = {"std": f"rank correlation with error {row.std_error_rank_correlation:.2f}"}
        about |= {"config": result.config, "stages": result.stages, "data_residual": result.data_residual}
    save_panel(
        args.out / f"{case.name}.png",
        zero_filled=images["zero-filled"],
        baselines=others,
        reference=data.reference,
        mask=data.sampling.mask,
        title=f"{case.file}: {data.sampling.description}",
        **shown,
    )
    return rows, about


def summary_table(rows: list[Row], cases: dict[str, Any]) -> str:
    """Return the README's table: a row a case, PSNR / SSIM by method, the best of each bold."""
    compared = [row for row in rows if row.method not in ("all of k-space", "zero-filled")]
    methods = list(dict.fromkeys(row.method for row in compared))
    lines = [f"| slice (net acceleration) | {' | '.join(methods)} |", "|---" + "|---:" * len(methods) + "|"]
    for case, about in cases.items():
        found = {row.method: (f"{row.psnr:.2f}", f"{row.ssim:.3f}") for row in compared if row.case == case}
        best = [max(values, key=float) for values in zip(*found.values(), strict=True)]
        bold = {
            name: [f"**{v}**" if v == b else v for v, b in zip(pair, best, strict=True)] for name, pair in found.items()
        }
        cells = [" / ".join(bold.get(name, [])) for name in methods]
        lines.append(f"| {case} ({about['net_acceleration']:.2f}x) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(rows: list[Row], cases: dict[str, Any]) -> str:
    lines = [
        "| slice (net acceleration) | method | PSNR dB | SSIM | best SSIM of any weight | NMSE | weight "
        "| seconds | NFE | rank correlation of std and error |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        net = cases[row.case]["net_acceleration"]
        cells = [
            f"{row.case} ({net:.2f}x)",
            row.method,
            f"{row.psnr:.2f}",
            f"{row.ssim:.4f}",
            _optional(row.best_ssim, ".4f"),
            f"{row.nmse:.5f}",
            _optional(row.weight, ".3g"),
            _optional(row.seconds, ".1f"),
            _optional(row.nfe, "d"),
            _optional(row.std_error_rank_correlation, ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md, results.json and the pictures")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds kspace/")
    parser.add_argument("--only", choices=sorted({case.group for case in CASES}), action="append")
    parser.add_argument("--prior", help="prior of the posterior rows; default: the shipped one")
    parser.add_argument("--method", default="annealed", help="sampler of the posterior row")
    parser.add_argument("--preset", help="preset of the sampler")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the sampler")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--maps", choices=("joint", "espirit"), default="joint", help="coil maps of the posterior row")
    parser.add_argument("--mask-seed", type=int, default=0)
    parser.add_argument("--every-rth-line", action="store_true", help="equispaced: spacing R plus ACS, net below R")
    parser.add_argument("--crop", type=float, default=0.0, help="ESPIRiT: eigenvalue below which maps are zero")
    parser.add_argument("--kernel-size", type=int, default=6, help="ESPIRiT")
    parser.add_argument("--threshold", type=float, default=0.02, help="ESPIRiT: singular values kept, of the largest")
    parser.add_argument("--baselines-only", action="store_true", help="leave the posterior out")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    cases: dict[str, Any] = {}
    for case in CASES:
        if args.only and case.group not in args.only:
            continue
        start = time.perf_counter()
        new, cases[case.name] = run_case(case, args)
        rows += new
        cases[case.name]["seconds_in_all"] = time.perf_counter() - start
        options = {key: str(value) for key, value in vars(args).items()}
        results = {"rows": [asdict(row) for row in rows], "cases": cases, "options": options}
        write_json(args.out / "results.json", results)
        write_text(args.out / "table.md", f"{summary_table(rows, cases)}\n{table(rows, cases)}")
    print(summary_table(rows, cases))


if __name__ == "__main__":
    main()
