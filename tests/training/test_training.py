"""The training loop, its losses and its checkpoints, without Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kdrift.data.dataset import TrainingImages
from kdrift.prior.prior_info import CardText
from kdrift.runs.config import to_dict
from kdrift.runs.files import read_json, write_json
from kdrift.runs.hardware import has_fast_bfloat16
from kdrift.runs.progress import progress
from kdrift.runs.run_folder import run_folder
from kdrift.sde import NoiseConfig
from kdrift.sde.white_noise import edm_loss, score_matching_loss
from kdrift.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_newest,
    newest_checkpoint,
    newest_sound,
    save_checkpoint,
)
from kdrift.training.denoised import denoise, noise_left, validate
from kdrift.training.loop import (
    Hooks,
    NonFiniteLossError,
    TrainState,
    autocast,
    fit,
    learning_rate,
    new_state,
    update_ema,
)
from kdrift.training.preview import draw_denoised, draw_samples, noise_schedule, save_sheet
from kdrift.training.train_config import MAY_CHANGE, HardwareConfig, OptimisationConfig, TrainConfig
from kdrift.training.watch import ProgressWriter, watching
from kdrift.training.workers import Workers, lend, parse_workers
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def run(config: TrainConfig, state: TrainState, hooks: Hooks | None = None) -> TrainState:
    fit(config, state, TrainingImages(config.data, "train", config.seed), hooks or Hooks(), device=CPU)
    return state


def tensors(state: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in state.values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += tensors(value)
    return found


@pytest.mark.parametrize("kind", ["edm", "none"])
def test_noise_does_not_depend_on_the_split(kind: str) -> None:
    config = NoiseConfig()
    sigma, noise = config.process.draw(config, kind, 5, range(8), (1, 4, 4))
    parts = [config.process.draw(config, kind, 5, part, (1, 4, 4)) for part in (range(3), range(3, 8))]
    assert torch.equal(sigma, torch.cat([part[0] for part in parts]))
    assert torch.equal(noise, torch.cat([part[1] for part in parts]))
    assert not torch.equal(sigma, config.process.draw(config, kind, 6, range(8), (1, 4, 4))[0])
    assert torch.unique(sigma).numel() == 8


def test_noise_levels_follow_their_distributions() -> None:
    config = NoiseConfig(log_sigma_mean=-0.4, log_sigma_std=0.7, sigma_min=0.01, sigma_max=100.0)
    log_sigma = config.process.draw(config, "edm", 0, range(4000), (1,))[0].log()
    assert abs(float(log_sigma.mean()) + 0.4) < 5 * 0.7 / 4000**0.5
    assert abs(float(log_sigma.std()) - 0.7) < 5 * 0.7 / 8000**0.5
    sigma = config.process.draw(config, "none", 0, range(4000), (1,))[0]
    times = (sigma / 0.01).log() / torch.tensor(1e4).log()
    assert float(times.min()) > 0
    assert float(times.max()) < 1
    assert abs(float(times.mean()) - 0.5) < 5 * (1 / 12 / 4000) ** 0.5


def test_losses_of_the_exact_gaussian_model() -> None:
    """For x ~ N(0, s^2) the least EDM loss is 1 at every level, score matching: s^2 / (s^2 + sigma^2)."""
    data_std, count = 0.5, 256
    generator = torch.Generator().manual_seed(0)
    image = data_std * torch.randn(count, 1, 16, 16, generator=generator)
    noise = torch.randn(image.shape, generator=generator)
    for level in (0.05, 0.5, 0.8, 5.0):
        sigma = torch.full((count,), level)

        def score(x: Tensor, sigma: Tensor) -> Tensor:
            return -x / (data_std**2 + sigma[:, None, None, None] ** 2)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return denoise(score, "score", x, sigma)

        error = 5 * (2 / image.numel()) ** 0.5
        expected = data_std**2 / (data_std**2 + level**2)
        assert abs(float(edm_loss(denoiser, image, sigma, noise, data_std)) - 1) < error
        assert abs(float(score_matching_loss(score, image, sigma, noise)) / expected - 1) < error
        assert abs(noise_left(denoiser, "image", image, level, noise, NoiseConfig()) / expected - 1) < error
        assert noise_left(score, "score", image, level, noise, NoiseConfig()) == pytest.approx(
            float(score_matching_loss(score, image, sigma, noise)), rel=1e-4
        )


def test_learning_rate() -> None:
    config = OptimisationConfig(learning_rate=1.0, warmup_images=100, schedule="cosine")
    assert learning_rate(config, 50, 1100) == 0.5
    assert learning_rate(config, 100, 1100) == 1.0
    assert learning_rate(config, 600, 1100) == pytest.approx(0.5)
    assert learning_rate(config, 1100, 1100) == pytest.approx(0.0)
    assert learning_rate(replace(config, schedule="constant"), 1100, 1100) == 1.0


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "auto"])
def test_arithmetic_is_as_precise_as_configured(images: Path, precision: str) -> None:
    config = tiny_config(images, hardware={"precision": precision})
    expected = has_fast_bfloat16(CPU) if precision == "auto" else precision == "bfloat16"
    with autocast(config, CPU):
        assert torch.is_autocast_enabled("cpu") == expected


def test_ema_half_life_is_in_images(images: Path) -> None:
    config = tiny_config(images)
    state = new_state(config, CPU)
    with torch.no_grad():
        for average, weight in zip(state.ema.parameters(), state.network.parameters(), strict=True):
            average.zero_()
            weight.fill_(1.0)
    state.images = 10**9
    for _ in range(5):
        update_ema(state, OptimisationConfig(ema_halflife_images=100), 20)
    for average in state.ema.parameters():
        torch.testing.assert_close(average, torch.full_like(average, 0.5))


def test_ema_half_life_grows_with_the_run_at_first(images: Path) -> None:
    state = new_state(tiny_config(images), CPU)
    options = OptimisationConfig(ema_halflife_images=1000, ema_rampup=0.05)
    for seen, kept in ((200, 0.5), (400, 0.5**0.5), (20_000, 0.5**0.01), (10**9, 0.5**0.01)):
        state.images = seen
        with torch.no_grad():
            for average, weight in zip(state.ema.parameters(), state.network.parameters(), strict=True):
                average.fill_(1.0)
                weight.zero_()
        update_ema(state, options, 10)
        for average in state.ema.parameters():
            torch.testing.assert_close(average, torch.full_like(average, kept))


def test_validation_sees_the_same_noise_every_time(images: Path) -> None:
    config = tiny_config(images)
    config = replace(
        config,
        total_images=48,
        optimisation=replace(config.optimisation, learning_rate=1e-30),  # the weights stay as they are
        monitoring=replace(config.monitoring, validate_every_images=16),
    )
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    state = new_state(config, CPU)
    first = validate(config, state.ema, held_out, CPU)
    seen: list[dict[str, float]] = []
    hooks = Hooks(metrics=lambda count, values: seen.append({k: v for k, v in values.items() if k in first}))
    source = TrainingImages(config.data, "train", config.seed)
    fit(config, state, source, hooks, validation=held_out, device=CPU)
    assert [values for values in seen if values] == [pytest.approx(first, rel=1e-6)] * 3
    torch.manual_seed(99)
    assert validate(config, state.ema, held_out, CPU) == pytest.approx(first, rel=1e-6)
    assert validate(replace(config, seed=4), state.ema, held_out, CPU) != pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("kind", ["edm", "none"])
def test_resumed_equals_uninterrupted_bit_for_bit(images: Path, tmp_path: Path, kind: str) -> None:
    config = tiny_config(images)
    network = replace(config.network.ncsnpp, dropout=0.1)
    if kind == "none":
        network = replace(network, centered=False, scale_by_sigma=True)
    config = replace(config, network=replace(config.network, preconditioning=kind, ncsnpp=network))
    whole = run(config, new_state(config, CPU))
    first = run(replace(config, total_images=24), new_state(config, CPU))
    path = save_checkpoint(tmp_path, first.state_dict(), images=first.images, keep=1)
    torch.manual_seed(12345)  # whatever happened in between
    resumed = new_state(config, CPU)
    resumed.load_state_dict(load_checkpoint(path))
    run(config, resumed)
    assert resumed.images == whole.images == 64
    expected, got = tensors(whole.state_dict()), tensors(resumed.state_dict())
    assert len(expected) == len(got) > 100
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(expected[-1], tensors(first.state_dict())[-1])


def test_training_lowers_the_validation_loss(images: Path) -> None:
    config = replace(tiny_config(images), total_images=800)
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(6)
    seen: dict[int, dict[str, float]] = {}
    hooks = Hooks(metrics=lambda count, values: seen.setdefault(count, {}).update(values))
    state = new_state(config, CPU)
    before = validate(config, state.ema, held_out, CPU)
    run(config, state, hooks)
    after = validate(config, state.ema, held_out, CPU)
    assert list(before) == ["validation/noise_left_sigma_0.1", "validation/noise_left_sigma_1"]
    for name in before:
        assert after[name] < before[name]
    assert sorted(seen) == list(range(16, 801, 16))
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "train/images_per_second"} <= set(seen[16])


def test_non_finite_loss_stops_before_the_step(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images)
    good = TrainingImages(config.data, "train", config.seed)

    class Poisoned:
        def batch(self, indices: Any) -> Tensor:
            batch = good.batch(indices)
            batch[list(indices).index(37) if 37 in indices else slice(0, 0)] = float("nan")
            return batch

    state = new_state(config, CPU)
    kept: list[list[Tensor]] = []

    def checkpoint(state: TrainState) -> None:
        kept.append([tensor.clone() for tensor in tensors(state.state_dict())])
        save_checkpoint(tmp_path, state.state_dict(), images=state.images, keep=9)

    with pytest.raises(NonFiniteLossError, match="at image 32: stopped before the step"):
        fit(config, state, Poisoned(), Hooks(checkpoint=checkpoint), device=CPU)
    assert state.images == 32
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "images_000000000016",
        "images_000000000032",
    ]
    for a, b in zip(kept[-1], tensors(state.state_dict()), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


def test_checkpoints_are_whole_or_absent(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    for count in (10, 20, 30):
        save_checkpoint(tmp_path, {"images": count}, images=count, keep=2)
    (tmp_path / ".partial_000000000040").mkdir()
    (tmp_path / "images_000000000050").mkdir()  # a folder without its file is no checkpoint
    assert [path.name[-2:] for path in list_checkpoints(tmp_path)] == ["20", "30"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert load_checkpoint(newest) == {"images": 30}
    save_checkpoint(tmp_path, {"images": 30, "again": 1}, images=30, keep=2)
    assert load_checkpoint(newest) == {"images": 30, "again": 1}
    content = (newest / "state.pt").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"garbage" * 10):
        (newest / "state.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"images_000000000030 is damaged"):
            load_checkpoint(newest)


def test_a_damaged_checkpoint_is_set_aside_for_an_older_one(tmp_path: Path) -> None:
    said: list[str] = []
    assert newest_sound(tmp_path, said.append) is None
    for count in (10, 20, 30, 40):
        save_checkpoint(tmp_path, {"images": count, "w": torch.ones(100)}, images=count, keep=4)
    content = bytearray((tmp_path / "images_000000000040" / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "images_000000000040" / "state.pt").write_bytes(content)
    (tmp_path / "images_000000000030" / "state.pt").unlink()
    (tmp_path / "images_000000000020" / "SHA256SUMS").unlink()  # as older versions wrote them
    with pytest.raises(ValueError, match=r"images_000000000040 is damaged: state\.pt does not match SHA256SUMS"):
        load_checkpoint(tmp_path / "images_000000000040")
    assert newest_sound(tmp_path, said.append) == tmp_path / "images_000000000020"
    assert len(said) == 2
    assert "damaged_images_000000000040" in said[0]
    save_checkpoint(tmp_path, {"images": 30}, images=30, keep=1)  # and nothing damaged counts among those kept
    assert [path.name for path in list_checkpoints(tmp_path)] == ["images_000000000030"]
    assert newest_sound(tmp_path, said.append) == tmp_path / "images_000000000030"
    (tmp_path / "images_000000000030" / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="all 1 checkpoints"):
        newest_sound(tmp_path, said.append)


READS = """
import sys
from pathlib import Path
from kdrift.training.checkpoint import load_newest
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
path, state = load_newest(Path(sys.argv[1]), print)
print(path.name, state["images"], sum(name.endswith("state.pt") for name in opened))
"""


def test_a_checkpoint_is_read_once_to_be_checked_and_loaded(tmp_path: Path) -> None:
    said: list[str] = []
    assert load_newest(tmp_path, said.append) is None
    path = save_checkpoint(tmp_path, {"images": 10, "w": torch.ones(100)}, images=10, keep=1)
    done = subprocess.run([sys.executable, "-c", READS, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["images_000000000010", "10", "1"]
    (path / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="all 1 checkpoints"):
        load_newest(tmp_path, said.append)
    assert (tmp_path / "damaged_images_000000000010").is_dir()
    assert len(said) == 1


def test_resume_needs_the_same_configuration(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images)
    known = {"what": "run", "free": MAY_CHANGE, "kind": TrainConfig}
    with run_folder(tmp_path, to_dict(config), **known):
        pass
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del saved["monitoring"], saved["noise"]["kind"]  # options that are newer than the run
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with run_folder(tmp_path, to_dict(replace(config, total_images=128, card=CardText("x"))), **known):
        pass
    with (
        pytest.raises(ValueError, match="seed was 3 and is now 4"),
        run_folder(tmp_path, to_dict(replace(config, seed=4)), **known),
    ):
        pass
    wider = replace(config.network, ncsnpp=replace(config.network.ncsnpp, nf=16))
    with (
        pytest.raises(ValueError, match=r"network\.ncsnpp\.nf was 8"),
        run_folder(tmp_path, to_dict(replace(config, network=wider)), **known),
    ):
        pass


def test_every_worker_has_an_image(images: Path) -> None:
    config = tiny_config(images)
    data = TrainingImages(config.data, "train", config.seed)
    with pytest.raises(ValueError, match="batch_size 8 is less than the 9 workers"):
        fit(config, new_state(config, CPU), data, Hooks(), device=CPU, world_size=9)


def test_configuration_errors(images: Path) -> None:
    with pytest.raises(ValueError, match="sigma_min"):
        tiny_config(images, noise={"sigma_min": 2.0, "sigma_max": 1.0})
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        tiny_config(images, optimisation={"learning_rat": 1.0})
    with pytest.raises(ValueError, match="must be positive"):
        tiny_config(images, batch_size=0)


def test_previews(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images)
    state = new_state(config, CPU)
    levels = noise_schedule(config.noise.process, 5)
    assert levels[0] == pytest.approx(20.0)
    assert levels[-2] == pytest.approx(0.01, rel=1e-4)
    assert levels[-1] == 0
    samples = draw_samples(config, state.ema, 16, CPU)
    assert samples.shape == (2, 1, 16, 16)
    assert torch.equal(samples, draw_samples(config, state.ema, 16, CPU))
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(3)
    sheet = draw_denoised(config, state.ema, held_out, CPU)
    assert sheet.shape == (9, 1, 16, 16)
    save_sheet(tmp_path / "a" / "sheet.png", sheet, 3)
    assert (tmp_path / "a" / "sheet.png").read_bytes().startswith(b"\x89PNG")


HERE = {"rank": 0, "node": "here", "device": "CPU", "precision": "float32", "cpus": 2}


def test_progress(tmp_path: Path) -> None:
    def write(values: dict[str, Any]) -> None:
        write_json(tmp_path / "progress.json", {**values, "notes": []})

    writer = ProgressWriter(write, 8, workers=[HERE])
    writer(16, 2.0, 4.0)
    writer(24, 1.0, 4.0)  # less than a second later: not written
    values = read_json(tmp_path / "progress.json")
    assert (values["images"], values["start"]) == (16, 8)
    lines: list[str] = []
    with progress(64, "images", echo=lines.append) as meter, watching(tmp_path / "progress.json", meter, lines.append):
        until = time.monotonic() + 30
        while not meter.done and time.monotonic() < until:
            time.sleep(0.05)
        write_json(tmp_path / "progress.json", {**values, "pid": values["pid"] + 1, "images": 64})
        while meter.done < 64 and time.monotonic() < until:
            time.sleep(0.05)
    assert lines[-3:] == [
        "a worker was lost: training goes on from image 8 with 1 worker(s)",
        "worker 0: node here, CPU, float32, 2 CPU(s)",
        "64/64 images  100.0 %  4.0 images/s  0:00:00 left  loss 2.0000",
    ]


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


PLAIN = HardwareConfig()


def test_workers_get_what_lets_all_run() -> None:
    def lent(nodes: list[dict[str, Any]], workers: Workers, hardware: HardwareConfig = PLAIN) -> tuple[int, int]:
        found = lend(nodes, workers, hardware, can_grow=False)
        assert not found.notes
        return found.cpus, found.gpus

    assert lent([node(8)], 1) == (8, 0)
    assert lent([node(8)], 3) == (2, 0)
    assert lent([node(8), node(4), node(64, alive=False)], 3) == (4, 0)
    assert lent([node(8), node(16, 2)], 2) == (8, 1)
    assert lent([node(16, 1), node(16, 4)], 3) == (8, 1)
    assert lent([node(8), node(16, 2)], 3, HardwareConfig(gpus=0)) == (8, 0)
    assert lent([node(8), node(16, 2)], 2, HardwareConfig(cpus=3)) == (3, 1)
    assert lent([node(8), node(16, 4)], 1, HardwareConfig(gpus=4)) == (16, 4)
    assert lent([node(4)], (1, 8)) == (1, 0)
    assert lent([node(16, 3)], (2, 8)) == (5, 1)


def test_63_of_64_gpus_are_never_64_cpus() -> None:
    nodes = [*(node(16, 8) for _ in range(7)), node(16, 7)]
    with pytest.raises(ValueError, match=r"64 worker\(s\) of 1 CPU\(s\) and 1 GPU\(s\) each do not fit: .* 63 GPU"):
        lend(nodes, 64, PLAIN, can_grow=False)
    with pytest.raises(ValueError, match=r"or hardware\.gpus=0 to train on CPUs"):
        lend(nodes, 64, PLAIN, can_grow=False)
    waiting = lend(nodes, 64, PLAIN, can_grow=True)
    assert waiting.resources == {"CPU": 1, "GPU": 1}
    assert "wait: the Ray cluster has 128 CPU(s) and 63 GPU(s) on 8 node(s)" in waiting.notes[0]
    assert lend(nodes, (1, 64), PLAIN, can_grow=False).resources == {"CPU": 2, "GPU": 1}
    with pytest.raises(ValueError, match=r"3 worker\(s\) of 1 CPU.* the Ray cluster has 2 CPU"):
        lend([node(2)], 3, PLAIN, can_grow=False)
    with pytest.raises(ValueError, match=r"of 1 CPU\(s\) and 1 GPU\(s\) each do not fit"):
        lend([node(2)], 1, HardwareConfig(gpus=1), can_grow=False)


@pytest.mark.parametrize(("text", "workers"), [("4", 4), ("2:4", (2, 4)), ("3:3", 3)])
def test_workers_are_a_number_or_bounds(text: str, workers: Workers) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["0", "4:2", "1:2:3", "many", "", "1.5"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2:4; got"):
        parse_workers(text)


def test_hardware_that_cannot_be_is_refused() -> None:
    for values in (
        {"cpus": 0},
        {"gpus": -1},
        {"loaders": -1},
        {"images_at_a_time": 0},
        {"gpus": 0, "accelerator_type": "H100"},
    ):
        with pytest.raises(ValueError, match=next(iter(values)) if len(values) == 1 else "asks for a GPU"):
            HardwareConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("at_a_time", [1, 3, 5])
def test_a_batch_in_parts_makes_the_same_step(images: Path, at_a_time: int) -> None:
    """Gradients of parts add up to that of the batch: only the order of summation differs."""
    config = tiny_config(images, total_images=24, hardware={"precision": "float32"})
    states = []
    for hardware in (config.hardware, replace(config.hardware, images_at_a_time=at_a_time)):
        one = replace(config, hardware=hardware)
        state = new_state(one, torch.device("cpu"))
        fit(one, state, TrainingImages(one.data, "train", one.seed), Hooks(), device=torch.device("cpu"))
        states.append(state.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)
