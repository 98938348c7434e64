"""The papers' claims: the runs that try each of them, and how their rows are judged. See `benchmarks.claims`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdrift.evaluation.evaluate_config import load_evaluation
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from kdrift.runs.config_names import RECIPES, find_config

Rows = dict[str, "Row"]


@dataclass(frozen=True)
class Row:
    """A run, averaged over the scans of a group."""

    label: str
    net_acceleration: float
    psnr: float
    ssim: float
    nfe: int
    seconds: float
    std: float
    detail: str = ""
    less: tuple[float, float] | None = None
    """How many dB below the first run it is, a scan at a time: mean and half of its 95 % interval (Student's t)."""

    @property
    def seconds_an_evaluation(self) -> float:
        """Seconds a network evaluation of one chain."""
        return self.seconds / max(self.nfe, 1)


@dataclass(frozen=True)
class Run:
    """A labelled reconstruction of every scan."""

    label: str
    mask: MaskRequest
    plan: Plan
    coils: int | None = None
    prior: str | None = None
    """A prior that is not the method's default."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, the runs that try it, and how they are judged."""

    source: str
    sentence: str
    runs: tuple[Run, ...]
    holds: Callable[[Rows], bool]


def _mask(recipe: str, name: str) -> MaskRequest:
    """A mask of a recipe."""
    return load_evaluation(find_config(RECIPES, recipe)).masks[name]


def _run(label: str, mask: MaskRequest, method: str, **options: Any) -> Run:
    coils, samples, prior = options.pop("coils", None), options.pop("samples", 1), options.pop("prior", None)
    chosen = {name: options.pop(name) for name in ("preset", "start", "start_prior") if name in options}
    return Run(label, mask, Plan(method, settings=options, num_samples=samples, **chosen), coils, prior)


def _coil_methods(mask: MaskRequest) -> tuple[Run, ...]:
    """The hybrid and SSOS on 4 coils with 100 steps."""
    methods = (("hybrid", "score_mri_hybrid"), ("SSOS", "score_mri_ssos"))
    return tuple(_run(name, mask, method, preset="paper", num_steps=100, coils=4) for name, method in methods)


def _best(rows: Rows, name: str) -> bool:
    """Whether `name` is above every other; a run that diverged is below all."""
    others = [row.psnr for label, row in rows.items() if label != name and not row.detail]
    return not rows[name].detail and all(rows[name].psnr >= psnr for psnr in others)


RANDOM10, UNIFORM12 = _mask("hfs_steps", "random10"), _mask("hfs_table1", "uniform12")
UNIFORM6 = _mask("ak_table2", "uniform6")
CCDF = _mask("score_mri_table3", "gaussian4")
FORTY = {"preset": "paper", "start_time": 0.02}
"""The last 40 of the 2000 steps of the preset."""
EQUISPACED4 = _mask("red_diff_table1", "equispaced4")
RED_DIFF = (
    _run("RED-diff", EQUISPACED4, "red_diff", preset="paper"),
    _run("RED-diff, released", EQUISPACED4, "red_diff", preset="released"),
    _run("CSGM-Langevin, stable", EQUISPACED4, "csgm_langevin", preset="stable"),
    _run("CSGM-Langevin, paper", EQUISPACED4, "csgm_langevin", preset="paper"),
)

CLAIMS = {
    "hfs_few_steps": Claim(
        "HFS-SDE, section V", "at N = 100 HFS-SDE is above VE and VP at N = 100 and at N = 1000 (10x random)",
        (
            _run("HFS-SDE, N = 100", RANDOM10, "hfs_sde", preset="paper_100"),
            _run("HFS-SDE searched, N = 100", RANDOM10, "hfs_sde", preset="tuned"),
            _run("VE, N = 100", RANDOM10, "pc_ve", preset="paper_100"),
            _run("VP, N = 100", RANDOM10, "pc_vp", preset="paper_100"),
            _run("VE, N = 1000", RANDOM10, "pc_ve", preset="paper"),
            _run("VP, N = 1000", RANDOM10, "pc_vp", preset="paper"),
        ),
        lambda rows: _best(rows, "HFS-SDE, N = 100"),
    ),
    "hfs_12x": Claim(
        "HFS-SDE, section V", "at 12x HFS-SDE is above VP, both at N = 1000 (uniform)",
        (
            _run("HFS-SDE, N = 1000", UNIFORM12, "hfs_sde", preset="paper"),
            _run("VP, N = 1000", UNIFORM12, "pc_vp", preset="paper"),
        ),
        lambda rows: _best(rows, "HFS-SDE, N = 1000"),
    ),
    "ak_ablation": Claim(
        "AK-Diffusion, section V.A", "the method is above itself without SS* and without low rank (uniform 6x)",
        (
            _run("AK-Diffusion", UNIFORM6, "ak_diffusion", preset="tuned"),
            _run("without SS*", UNIFORM6, "ak_diffusion", preset="tuned", coil_noise="none"),
            _run("without low rank", UNIFORM6, "ak_diffusion", preset="tuned", slr_weight=0.0),
            _run("preset paper", UNIFORM6, "ak_diffusion", preset="paper"),
        ),
        lambda rows: _best(rows, "AK-Diffusion"),
    ),
    "ak_coil_noise": Claim(
        "AK-Diffusion, section VI.B", "SS* from the zero-filled images or the low-rank operator loses less than 1 dB",
        (
            _run("SS* from ESPIRiT", UNIFORM6, "ak_diffusion", preset="tuned"),
            _run("from zero-filled", UNIFORM6, "ak_diffusion", preset="tuned", coil_noise="zero_filled"),
            _run("from low rank", UNIFORM6, "ak_diffusion", preset="tuned", coil_noise="low_rank"),
        ),
        lambda rows: min(row.psnr for row in rows.values()) >= rows["SS* from ESPIRiT"].psnr - 1,
    ),
    "ak_sigma": Claim(
        "AK-Diffusion, section VI", "of sigma_N 0.25, 0.5 and 1 the largest is the best",
        tuple(
            _run(f"sigma_N = {sigma:g}", UNIFORM6, "ak_diffusion", preset="tuned", sigma_last=sigma)
            for sigma in (0.25, 0.5, 1.0)
        ),
        lambda rows: _best(rows, "sigma_N = 1"),
    ),
    "hybrid_1d": Claim(
        "Score-MRI, section 5", "on 1-D masks the hybrid is above SSOS (Gaussian 4x)",
        _coil_methods(_mask("score_mri_table2", "gaussian4")),
        lambda rows: _best(rows, "hybrid"),
    ),
    "ssos_2d": Claim(
        "Score-MRI, section 5", "on 2-D masks SSOS is above the hybrid (Gaussian 8x)",
        _coil_methods(_mask("score_mri_table2", "gaussian2d8")),
        lambda rows: _best(rows, "SSOS"),
    ),
    "ccdf": Claim(
        "Score-MRI, Algorithm 6", "40 of 2000 steps from a network's image come within 0.5 dB of all 2000 (4x)",
        (
            _run("all 2000 steps", CCDF, "score_mri", preset="paper"),
            _run("40 steps from U-Net", CCDF, "score_mri", start="unet", start_prior="brain-unet", **FORTY),
            _run("40 steps from TV", CCDF, "score_mri", start="tv", **FORTY),
            _run("U-Net alone", CCDF, "unet"),
            _run("TV alone", CCDF, "tv"),
        ),
        lambda rows: rows["40 steps from U-Net"].psnr >= rows["all 2000 steps"].psnr - 0.5,
    ),
    "red_diff": Claim(
        "RED-diff, section 5", "RED-diff is above CSGM-Langevin (equispaced 4x)", RED_DIFF,
        lambda rows: rows["RED-diff"].psnr > rows["CSGM-Langevin, stable"].psnr,
    ),
    "red_diff_time": Claim(
        "RED-diff, section 5",
        "RED-diff takes a third of CSGM-Langevin's time an iteration (0.114 s against 0.344 s), and less in all",
        RED_DIFF,
        lambda rows: rows["RED-diff"].seconds_an_evaluation < 0.4 * rows["CSGM-Langevin, stable"].seconds_an_evaluation
        and rows["RED-diff"].seconds < rows["CSGM-Langevin, stable"].seconds,
    ),
    "spread": Claim(
        "Score-MRI, section 5.3", "the deviation of 8 samples grows with the acceleration from 2x to 8x",
        tuple(
            _run(f"{r}x", MaskRequest("equispaced", acceleration=r, acs_fraction=0.08), "annealed", samples=8)
            for r in (2, 4, 6, 8)
        ),
        lambda rows: (spread := [row.std for row in rows.values()]) == sorted(spread),
    ),
}  # fmt: skip
