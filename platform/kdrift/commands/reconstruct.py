"""`kdrift reconstruct`: posterior mean and uncertainty of one k-space volume, or of a whole store."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from kdrift.commands.common import ConfigName, Overrides, echo, name_failures
from kdrift.commands.options import Misuse, joined, options_of, refuse_beside_config
from kdrift.mri.masks import KINDS
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionOptions, MaskRequest
from kdrift.runs.hint import suggest

FIGURES = (("psnr", ".2f", " dB"), ("ssim", ".4f", ""), ("nmse", ".5f", ""))
MASK = {"kind": "mask", "seed": "mask_seed", "released": "mask_released"}
NO = {"check": "--no-check"}
DATA = Group("What is read", sort_key=0)
METHOD = Group("Method and samples", sort_key=1)
MASKS = Group("Retrospective undersampling", sort_key=2)
FILES = Group("Files and device", sort_key=3)
BATCH = Group("A whole store on Ray, instead of INPUT", sort_key=4)
if TYPE_CHECKING:
    PlanOptions = Mapping[str, Any]
    MaskOptions = Mapping[str, Any]
    DataOptions = Mapping[str, Any]
else:
    PlanOptions = options_of(Plan, METHOD, names={"keep_samples": "save_samples"}, omit=("settings",), negatives=NO)
    DataOptions = options_of(AcquisitionOptions, DATA, omit=("slices", "mask"), repeated=("select",))
    MaskOptions = options_of(
        MaskRequest, MASKS, names=MASK, choices={"kind": sorted(KINDS)}, free=("kind",), omit=("file",)
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reconstruct k-space: mean and standard deviation of posterior samples.

    Full data are undersampled first by the --mask options; data measured undersampled are taken as they are.
    """

    input: Annotated[str | None, Parameter(name="INPUT")] = field(default=None, kw_only=False)
    """k-space file or URL, or X.zarr/VOLUME of a store."""
    out: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Folder for the results, or a URL such as s3://bucket/x."""
    slices: Annotated[str | None, Parameter(metavar="A:B", group=DATA)] = None
    """Slices A to B - 1, or one number; by default all."""
    data: DataOptions = field(default_factory=dict)
    """How it is read."""
    mask: MaskOptions = field(default_factory=dict)
    """Undersampling."""
    plan: PlanOptions = field(default_factory=dict)
    """What to run."""
    prior: Annotated[str | None, Parameter(metavar="NAME|PATH", group=METHOD)] = None
    """Shipped prior or bundle folder; by default the method's shipped prior."""
    roi: Annotated[tuple[str, ...], Parameter(metavar="R0:R1,C0:C1|FILE", group=METHOD, negative=())] = ()
    """Region whose mean is given with its interval, several times for several: rows R0 to R1 - 1 and columns C0 to
    C1 - 1 of the image as written, or a mask or label image, .npy or NIfTI on the grid of the images."""
    steps: Annotated[int | None, Parameter(metavar="N", group=METHOD)] = None
    """Steps of the method, its setting num_steps."""
    set: Overrides = ()
    """Override one setting of the method, or one value of --config."""
    device: Annotated[str, Parameter(group=FILES)] = "auto"
    """cpu, cuda, cuda:1, ...; auto: a GPU where there is one."""
    save_smaps: Annotated[bool, Parameter(group=FILES)] = False
    """Store the coil maps in reconstruction.h5."""
    output: Annotated[str, Parameter(metavar="NAME,...", group=FILES)] = "h5"
    """What is written: h5 (always), nifti, dicom, ismrmrd, bart, several with commas."""
    nifti: Annotated[bool, Parameter(group=FILES)] = False
    """Short for --output nifti."""
    quiet: Annotated[bool, Parameter(group=FILES)] = False
    """Show no progress."""
    config: Annotated[ConfigName | None, Parameter(group=BATCH)] = None
    """Configuration of a batch: a file, or the name of one that comes with kdrift."""
    address: Annotated[str | None, Parameter(group=BATCH)] = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""


def run(options: Options) -> int:
    """Reconstruct, write the results and print the figures; a batch names every volume that failed."""
    if options.config:
        return _run_batch(options)
    if not options.input or not options.out:
        raise Misuse("give INPUT and --out DIR, or --config FILE")
    from kdrift.recon.report import earlier_objects
    from kdrift.runs.home import at_home

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with at_home(options.out, what="reconstruction", echo=note, wanted=earlier_objects) as home:
        if home.url is not None and options.input.rpartition("/")[0] == home.url:
            raise ValueError(f"{options.input} lies in {home.url}, where results would be written: name another place")
        return _run_one(options, options.input, home.folder)


def _run_one(options: Options, source: str, out: Path) -> int:
    """Reconstruct one volume into a folder."""
    from kdrift.methods import METHODS
    from kdrift.recon.acquisition import load_acquisition
    from kdrift.recon.outputs import read_outputs
    from kdrift.recon.plan import load_prior_of
    from kdrift.recon.reconstruct import reconstruct_slices
    from kdrift.recon.region_files import acquired_regions, with_regions
    from kdrift.recon.report import RESULTS, check_outputs, save_result
    from kdrift.recon.sampling import choose_device
    from kdrift.recon.sentences import divergence_lines, failure_lines
    from kdrift.runs.hardware import keep_freed_memory
    from kdrift.runs.progress import progress

    keep_freed_memory()
    outputs = read_outputs(f"{options.output}{',nifti' if options.nifti else ''}")
    check_outputs(out, source)
    mask, plan, device = _mask(options.mask), _plan(options), choose_device(options.device)
    if plan.method in METHODS:
        method = METHODS[plan.method]
        if options.prior is not None and not method.needs_prior:
            raise Misuse(f"--prior {options.prior}: {plan.method} uses no prior, leave it out")
        if "num_samples" in options.plan and plan.num_samples > 1 and not method.samples:
            raise Misuse(f"--samples {plan.num_samples}: {plan.method} makes one image, leave it out")
    prior = load_prior_of(plan.method, options.prior, device)
    resolved = plan.resolve(prior)
    echo(resolved.headline(device))
    asked = AcquisitionOptions(slices=options.slices, mask=mask, **joined(options.data))
    acquisition = load_acquisition(asked.of(source))
    for note in acquisition.notes:
        print(f"note: {note}", file=sys.stderr)
    regions = acquired_regions(options.roi, acquisition)
    slices = len(acquisition.slice_indices)
    with progress(
        0, "evaluations", quiet=options.quiet, echo=lambda line: print(line, file=sys.stderr, flush=True)
    ) as meter:

        def show(position: int, done: int, steps: int) -> None:
            if not meter.done:
                meter.begin()  # the pace of evaluations is not that of what prepared the first slice
            meter.update(position * steps + done, total=slices * steps, note=f"slice {position + 1}/{slices}")

        raw = [acquisition.raw(position) for position in range(slices)]
        result = reconstruct_slices(raw, plan=resolved, prior=prior, device=device, progress=show)
    result = with_regions(result, regions, keep_samples=bool(options.plan.get("keep_samples")))
    for line in (*result.verdict_lines, *(str(line) for region in result.regions for line in region.lines)):
        echo(line)
    report = save_result(out, acquisition, result, keep_smaps=options.save_smaps, outputs=outputs)
    for line in divergence_lines(result.diverged, result.fallback):
        print(f"kdrift: {line}", file=sys.stderr)
    failures = failure_lines(result.failed)
    for note in report["notes"]:
        if note not in acquisition.notes:
            print(f"{'kdrift: failed' if note in failures else 'warning'}: {note}", file=sys.stderr)
    print(f"{acquisition.info.name}: {acquisition.sampling}")
    figures = [
        f"{name.upper()} {report['metrics'][name]:{form}}{unit}"
        for name, form, unit in FIGURES
        if name in report.get("metrics", {})
    ]
    if "coverage" in report:
        figures.append(f"{report['coverage']:.0%} of the object within intervals of {report['level']:.0%}")
    if figures:
        doubtful = (
            " (doubtful: the stored reference does not fit)" if report.get("reference_fit", {}).get("doubts") else ""
        )
        print("  ".join(figures) + doubtful, end="  ")
    evaluations = f"{result.network_images} evaluations, {result.nfe} a chain, " if result.nfe else ""
    print(f"{evaluations}{result.seconds:.1f} s")
    made = [name for name in RESULTS if (out / name).exists()]
    print(f"written: {options.out}/{made[0]}", *made[1:], *report["outputs"])
    if report["removed"]:
        print("removed, since an earlier run wrote it and this one does not:", *report["removed"])
    return 0


def _run_batch(options: Options) -> int:
    from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
    from kdrift.runs.config import load_config
    from kdrift.runs.config_names import find_config
    from kdrift.runs.progress import format_seconds

    refuse_beside_config(options, {"out", "address", "quiet"})
    overrides = [*options.set, *([f"out={options.out}"] if options.out else [])]
    config = load_config(BatchConfig, find_config("reconstruct", str(options.config)), overrides)
    report = reconstruct_batch(config, address=options.address, quiet=options.quiet, echo=echo)
    print(f"{config.out}: {report.volumes} volumes written, {len(report.failed)} failed;", end=" ")
    print(f"{report.slices} slices in {format_seconds(report.seconds)}, {report.slices_before} were done before")
    return name_failures({folder.name: reason for folder, reason in report.failed.items()})


def _mask(given: Mapping[str, Any]) -> MaskRequest | None:
    if given and "kind" not in given:
        option = f"--{MASK.get(next(iter(given)), next(iter(given))).replace('_', '-')}"
        raise Misuse(f"{option} without --mask undersamples nothing: name the kind, one of {', '.join(sorted(KINDS))}")
    if given and given["kind"] not in KINDS:
        file = str(given["kind"])
        there = Path(file).exists() or Path(f"{file}.cfl").exists()
        if len(given) > 1 and (there or Path(file).suffix):
            raise Misuse(
                f"--mask {file} is no kind of mask but a file, which is not drawn: leave the options of a draw out"
            )
        if not there:
            raise Misuse(f"--mask {file} is no file, and no kind of mask{suggest(file, KINDS)}")
        return MaskRequest(file=file)
    if {"acs_fraction", "acs_lines"} <= given.keys():
        raise Misuse("give --acs-fraction or --acs-lines, not both")
    return MaskRequest(**given) if given else None


def _plan(options: Options) -> Plan:
    from kdrift.methods import METHODS
    from kdrift.methods.presets import read_preset
    from kdrift.runs.config import parse_override

    settings = dict(parse_override(text) for text in options.set)
    given: dict[str, Any] = dict(options.plan)
    if options.steps is not None:
        settings["num_steps"] = options.steps
        method = METHODS.get(given.get("method", Plan().method))
        if method is not None and not method.has_steps:
            raise Misuse(f"--steps {options.steps}: {given['method']} has no number of steps, leave it out")
    if str(given.get("preset")).endswith((".yaml", ".yml")):
        given["preset"] = read_preset(given["preset"])
    if options.roi:
        given["keep_samples"] = True  # while it computes: they are written where they are asked for
    return Plan(**given, settings=settings)
