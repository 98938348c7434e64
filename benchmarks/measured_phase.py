"""A complex prior trained on the measured phase of complex images, beside the same one with a synthetic phase.

    python -m benchmarks.measured_phase prepare --out build/phase           # magnitudes, coil maps, real complex slices
    python -m benchmarks.measured_phase train --out build/phase [--images 256000] [--device cuda]
    python -m benchmarks.measured_phase psnr --out build/phase              # graz_t2_4ch, 4x

`prepare` needs all of kdrift and the data; it makes one file, `prepared.npz`. `train` needs that file, NumPy, SciPy,
h5py, PyYAML, pydantic, safetensors and PyTorch alone: it simulates k-space of eight measured coils with a phase of its
own, combines it as `kdrift convert --complex-images` does, and trains two priors on these images with one network, seed
and budget: `measured` sees their phase, `synthetic` their magnitudes times exp(i phi) as `augment_phase: smooth` draws
phi. It prints the fraction of the noise's power that each leaves, by level, on complex images of a patient that neither
has seen, and on real slices. `psnr` reconstructs the real 4-coil slice with each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kdrift.data.complex_images import combined_image
from kdrift.data.dataset import TrainingImages
from kdrift.data.simulate import lower_resolution, mean_signal, resize_maps, simulate_volume
from kdrift.prior.bundle import save_prior
from kdrift.prior.prior_info import DataSource, NoiseLeft, PriorInfo, VolumeRecord
from kdrift.runs.config import load_config, to_dict
from kdrift.runs.files import whole_file
from kdrift.training.denoised import validate
from kdrift.training.loop import Hooks, TrainState, fit, new_state
from kdrift.training.train_config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN, HELD_OUT = ("patient01", "patient03", "patient04"), "patient09"
REAL = ("graz_t2_4ch", "larson_t1_sag_1ch", "wastling_t2_1ch")
MOST_PIXELS, LEVELS, DROPPED, COILS = 256, 4095, 2, 8
ARMS = {"measured": "measured", "synthetic": "smooth"}
"""Names of the two priors and their `augment_phase`."""


def prepare(out: Path) -> None:
    """Write magnitudes of all volumes, coil maps and the real slices' complex images into one file."""
    from benchmarks.held_out import DATA, MEASURED_MAPS
    from kdrift.cli import main as kdrift
    from kdrift.data.formats import open_volume
    from kdrift.data.simulate import load_maps
    from kdrift.data.store import open_store

    arrays: dict[str, np.ndarray] = {"maps": resize_maps(load_maps(MEASURED_MAPS[1]), 128, 128, COILS)}
    for patient in (*TRAIN, HELD_OUT):
        for path in sorted((DATA / "brain_nifti" / patient).glob("*.nii.gz")):
            with open_volume(str(path)) as volume:
                images = volume.read_image(DROPPED, volume.info.num_slices - DROPPED)
            rows, cols = images.shape[1:]
            scale = min(1.0, MOST_PIXELS / max(rows, cols))
            images = lower_resolution(images, round(rows * scale), round(cols * scale))
            whole = np.clip(np.round(images * (LEVELS / images.max())), 0, LEVELS)
            arrays[f"magnitude/{patient}_{volume.info.name}"] = whole.astype(np.uint16)
    store = out / "real.zarr"
    kdrift(
        ["convert", str(DATA / "kspace"), "--store", str(store), "--complex-images"]
    )  # the undersampled one is named
    with open_store(store) as opened:
        for name in REAL:
            volume = opened.read_volume(name)
            arrays[f"real/{name}"] = volume.read_complex_image(0, volume.info.num_slices)
    with whole_file(out / "prepared.npz") as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    slices = sum(len(array) for name, array in arrays.items() if name.startswith("magnitude/"))
    print(f"{out / 'prepared.npz'}: {slices} slices, {(out / 'prepared.npz').stat().st_size >> 20} MiB")


def simulate(prepared: Path, folder: Path, args: argparse.Namespace) -> None:
    """Write `images.npz` of complex images by volume, and `real.npz`."""
    images: dict[str, np.ndarray] = {}
    began, maps = time.monotonic(), {}
    with np.load(prepared) as arrays:
        for key in arrays.files:
            kind, _, name = key.partition("/")
            if kind != "magnitude" or (args.quick and len(images) == 2):
                continue
            magnitudes = arrays[key][:2] if args.quick else arrays[key]
            magnitudes = magnitudes.astype(np.float32) / LEVELS
            shape = magnitudes.shape[1:]
            if shape not in maps:
                maps[shape] = resize_maps(arrays["maps"], *shape)
            noise_std = mean_signal(magnitudes) / 10 ** (args.snr / 20)
            made = []
            for index, magnitude in enumerate(magnitudes):  # a slice at a time: k-space of a volume is 1 GB
                kspace, _ = simulate_volume(
                    magnitude[None], maps[shape], noise_std=noise_std, phase_order=args.phase_order,
                    phase_rad=args.phase_rad, seed=len(images), first_slice=index,
                )  # fmt: skip
                made.append(combined_image(kspace[0], *shape, device=args.device))
            images[name] = np.stack(made)
        np.savez(
            folder / "real.npz", **{key.partition("/")[2]: arrays[key] for key in arrays.files if key[:5] == "real/"}
        )
    np.savez(folder / "images.npz", **images)
    total = sum(len(volume) for volume in images.values())
    print(f"{len(images)} volumes, {total} complex slices simulated in {time.monotonic() - began:.0f} s", flush=True)


def configuration(arm: str, folder: Path, args: argparse.Namespace) -> TrainConfig:
    """Return the training of one prior: the template for a GPU, with these data and this budget."""
    config = load_config(TrainConfig, REPOSITORY / "configs" / "train" / "brain_complex_long.yaml", args.set)
    held_out = [f"{HELD_OUT}*"] if not args.quick else []
    data = replace(
        config.data, stores=[str(folder / "images.npz")], validation=held_out, drop_first=0, drop_last=0,
        augment_phase=ARMS[arm],
    )  # fmt: skip
    hardware = replace(config.hardware, loaders=0) if args.quick else config.hardware
    return replace(config, name=f"brain-complex-{arm}", total_images=args.images, data=data, hardware=hardware)


def train(arm: str, folder: Path, args: argparse.Namespace) -> dict[str, list[NoiseLeft]]:
    """Train one prior, write it to `folder/arm`, and return the noise it leaves on each set of images."""
    config, device = configuration(arm, folder, args), torch.device(args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    data, state = TrainingImages(config.data, "train", config.seed), new_state(config, device)
    began = time.monotonic()

    def progress(images: int, loss: float, rate: float) -> None:
        if images * 10 // config.total_images > (images - config.batch_size) * 10 // config.total_images:
            print(f"{arm}: {images} images, loss {loss:.4f}, {rate:.0f} images/s", flush=True)

    def wrap(network: torch.nn.Module) -> torch.nn.Module:
        if args.compile:
            network.compile()
        return network

    fit(config, state, data, Hooks(progress=progress), device=device, wrap=wrap)
    print(f"{arm}: trained in {time.monotonic() - began:.0f} s", flush=True)
    found = noise_left(config, state, folder, device)
    held_out = found.get(HELD_OUT, [])
    volumes = [VolumeRecord(entry.name, entry.stop - entry.start) for entry in data.volumes]
    info = PriorInfo(
        config.noise.process, config.data.image_scale, noise_left=tuple(held_out), images=state.images,
        data=(DataSource("images.npz", tuple(volumes)),),
        training={**to_dict(config), "data": {**to_dict(config.data), "stores": ["images.npz"]}},
    )  # fmt: skip
    save_prior(args.out / arm, state.ema, config.network, info, name=config.name)
    return found


def noise_left(
    config: TrainConfig, state: TrainState, folder: Path, device: torch.device
) -> dict[str, list[NoiseLeft]]:
    """Return the noise left on complex images with their own phase: of the patient held out, and of real slices."""
    own = replace(config.data, augment_phase="measured")
    sets: dict[str, torch.Tensor] = {}
    if config.data.validation:
        held_out = TrainingImages(own, "validation", config.seed)
        sets[HELD_OUT] = held_out.validation_batch(min(24, len(held_out)))
    for name in REAL:
        real = replace(
            own, stores=[str(folder / "real.npz")], include=[name], validation=[], normalise="slice", crop=192
        )
        sets[name] = TrainingImages(real, "train", config.seed).validation_batch(1)
    found = {}
    for name, images in sets.items():
        values = validate(config, state.ema, images, device)
        found[name] = [NoiseLeft(float(key.rpartition("_")[2]), value) for key, value in values.items()]
    return found


def psnr(out: Path, samples: int) -> None:
    """Reconstruct the real slice at 4x with each prior, and with the one that comes with kdrift."""
    from benchmarks.held_out import DATA
    from benchmarks.real_slices import CASES, load, posterior

    (case,) = [case for case in CASES if case.group == "graz4"]
    priors = {arm: str(out / arm) for arm in ARMS} | {"brain-complex": "brain-complex"}
    print("| prior | PSNR dB | SSIM |\n|---|---:|---:|")
    for name, prior in priors.items():
        args = argparse.Namespace(
            data=DATA, mask_seed=0, every_rth_line=False, kernel_size=6, threshold=0.02, crop=0.0, method="annealed",
            preset=None, set=[], samples=samples, seed=0, prior=prior, maps="joint",
        )  # fmt: skip
        row, _, _ = posterior(case, load(case, args), args)
        print(f"| {name} | {row.psnr:.2f} | {row.ssim:.4f} |", flush=True)


def table(found: dict[str, dict[str, list[NoiseLeft]]]) -> str:
    """Return the noise left as a Markdown table: a row a set of images and prior, a column a level."""
    first = next(iter(next(iter(found.values())).values()))
    head = [f"sigma {each.sigma:g}" for each in first]
    lines = [f"| images | prior | {' | '.join(head)} |", "|---|---|" + "---:|" * len(head)]
    for images in next(iter(found.values())):
        for arm, values in found.items():
            lines.append(f"| {images} | {arm} | {' | '.join(f'{each.fraction:.4f}' for each in values[images])} |")
    return "\n".join(lines)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "train", "psnr"))
    parser.add_argument("--out", type=Path, default=Path("build/phase"), help="folder of prepared.npz and the priors")
    parser.add_argument("--prepared", type=Path, help="prepared.npz; default: that in --out")
    parser.add_argument("--images", type=int, default=256_000, help="training images of each prior")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="do without torch.compile")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="value of the configuration")
    parser.add_argument("--quick", action="store_true", help="two slices of two volumes, none held out: to try it")
    parser.add_argument(
        "--snr", type=float, default=40.0, help="dB of the simulated k-space, as kdrift simulate has it"
    )
    parser.add_argument("--phase-order", type=int, default=5, help="order of the simulated phase along each axis")
    parser.add_argument("--phase-rad", type=float, default=1.0, help="its standard deviation at the knots")
    parser.add_argument("--samples", type=int, default=8, help="samples of psnr, at least 2")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step == "prepare":
        prepare(args.out)
    elif args.step == "psnr":
        psnr(args.out, args.samples)
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            simulate(args.prepared or args.out / "prepared.npz", Path(folder), args)
            found = {arm: train(arm, Path(folder), args) for arm in ARMS}
        print(f"\nFraction of the noise's power left:\n\n{table(found)}")


if __name__ == "__main__":
    main()
