"""Training of networks that reconstruct: what is drawn, what is learned, and that a run can be cut anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdrift.data.dataset import TrainingImages
from kdrift.data.measurements import MeasurementConfig, RandomMask, draw_measurements
from kdrift.measures.metrics import similarity, ssim
from kdrift.mri.coils import combine, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.runs.config import parse, to_dict
from kdrift.training.loop import Hooks, TrainState, fit, new_state
from kdrift.training.objectives import objective_of
from kdrift.training.reconstruction import ReconstructionObjective
from kdrift.training.train_config import TrainConfig
from reconstructor_helpers import SMALL
from training_helpers import write_images

CPU = torch.device("cpu")
ANY = RandomMask("random", (2.0, 4.0), (0.1, 0.2))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def config_of(name: str, images: Path, **changes: Any) -> TrainConfig:
    """A run on crops of 24 x 24."""
    values: dict[str, Any] = {
        "name": "tiny", "seed": 3, "total_images": 32, "batch_size": 4,
        "data": {
            "stores": [str(images)], "validation": ["v2"], "crop": 24, "images": "complex", "augment_phase": "smooth",
        },
        "network": to_dict(SMALL[name]),
        "measurement": {"masks": [to_dict(ANY)], "num_coils": [2, 4]},
        "optimisation": {"learning_rate": 1e-3, "warmup_images": 4, "ema_halflife_images": 8},
        "monitoring": {"log_every_images": 16, "validate_every_images": 32, "validation_images": 4},
        "checkpoint": {"every_images": 16},
    }  # fmt: skip
    return parse(TrainConfig, {**values, **changes})


def run(config: TrainConfig, state: TrainState, **options: Any) -> TrainState:
    fit(config, state, TrainingImages(config.data, "train", config.seed), device=CPU, hooks=Hooks(), **options)
    return state


def phantom(rows: int = 32, cols: int = 32) -> torch.Tensor:
    y, x = np.mgrid[:rows, :cols]
    inside = ((y - rows / 2) ** 2 + (x - cols / 2) ** 2 < (0.4 * rows) ** 2).astype(np.float32)
    return torch.from_numpy(inside * (1 + 0.5 * np.sin(x / 2)) * np.exp(1j * y / 20)).to(torch.complex64)


def test_a_measurement_is_the_image_seen_by_its_coils() -> None:
    image, config = phantom()[None], MeasurementConfig([ANY], (3, 5), snr_db=(200.0, 200.0))
    kspace, mask, smaps = draw_measurements(config, image, 1, [7], 0, "measurement")
    torch.testing.assert_close(rss(smaps), torch.ones(1, 32, 32))
    torch.testing.assert_close(kspace, fft2c(smaps * image) * mask[:, None], rtol=1e-4, atol=1e-5)
    assert not bool(kspace[~mask[:, None].expand_as(kspace)].any())


def test_the_noise_has_the_deviation_that_is_stated() -> None:
    image, full = phantom(64, 64)[None], RandomMask("random", (1.0, 1.0), (1.0, 1.0))
    config = MeasurementConfig([full], (8, 8), snr_db=(20.0, 20.0))
    kspace, _, smaps = draw_measurements(config, image, 1, [0], 0, "measurement")
    left = combine(ifft2c(kspace), smaps) - image
    expected = float(image.abs()[image.abs() > 0].mean()) / 10
    for part in (left.real, left.imag):  # of 4096 values: 5 standard errors
        assert float(part.std()) == pytest.approx(expected, rel=5 / (2 * 4096) ** 0.5)


def test_a_measurement_depends_on_the_number_of_its_image_alone() -> None:
    stack, config = phantom().repeat(3, 1, 1), MeasurementConfig([ANY, RandomMask("poisson", (3.0, 5.0), (0.1, 0.2))])
    together = draw_measurements(config, stack, 1, [4, 5, 6], 2, "measurement")
    alone = draw_measurements(config, stack[:1], 1, [5], 2, "measurement")
    for whole, part in zip(together, alone, strict=True):
        assert torch.equal(whole[1], part[0])
    assert not torch.equal(together[0][0], together[0][1])


def test_coils_come_in_all_numbers_and_masks_of_all_families() -> None:
    config = MeasurementConfig([RandomMask("equispaced"), RandomMask("poisson", (4.0, 6.0), (0.1, 0.2))], (2, 4))
    drawn = [draw_measurements(config, phantom()[None], 0, [n], n, "measurement") for n in range(24)]
    assert {len(kspace[0]) for kspace, *_ in drawn} == {2, 3, 4}
    by_columns = [bool((mask[0] == mask[0, :1]).all()) for _, mask, _ in drawn]
    assert 4 < sum(by_columns) < 20


def test_measured_maps_are_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = np.ones((4, 32, 32)) + 0.3 * rng.standard_normal((4, 1, 1)) + 0.2j * rng.standard_normal((4, 1, 1))
    np.save(tmp_path / "maps.npy", maps.astype(np.complex64))
    config = MeasurementConfig([ANY], (2, 2), maps=str(tmp_path / "maps.npy"))
    smaps = draw_measurements(config, phantom()[None], 0, [0], 0, "measurement")[2]
    # constant maps stay constant, whatever the turn; the principal coil has all of them, the second nothing
    torch.testing.assert_close(smaps, smaps[..., :1, :1].expand_as(smaps), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_measure() -> None:
    torch.manual_seed(0)
    reference, image = torch.rand(2, 24, 24), torch.rand(2, 24, 24)
    most = reference.amax((-2, -1), keepdim=True)
    found = similarity(reference, image, most).mean((-2, -1))
    for number in range(2):
        assert float(found[number]) == pytest.approx(ssim(reference[number], image[number]), abs=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_one_image_is_learned_by_heart(name: str, images: Path) -> None:
    config = config_of(name, images)
    objective, state = objective_of(config), new_state(config, CPU)
    drawn = objective.draw(torch.view_as_real(phantom()).movedim(-1, 0)[None], [0])
    optimizer = torch.optim.Adam(state.network.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = objective.loss(state.network, *drawn)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.1
    assert losses[-1] < 0.2 * losses[0], losses[::50]


@pytest.mark.parametrize("name", SMALL)
def test_a_resumed_run_is_the_run(name: str, images: Path) -> None:
    config = config_of(name, images, total_images=16)
    whole = run(config, new_state(config, CPU))
    half = run(replace(config, total_images=8), new_state(config, CPU))
    again = new_state(config, CPU)
    again.load_state_dict(half.state_dict())
    run(config, again)
    for key, value in whole.ema.state_dict().items():
        assert torch.equal(value, again.ema.state_dict()[key]), key


def test_two_workers_see_what_one_sees(images: Path) -> None:
    config = config_of("unet", images)
    source, objective = TrainingImages(config.data, "train", config.seed), objective_of(config)
    whole = objective.draw(source.batch(range(8, 12)), range(8, 12))
    halves = [objective.draw(source.batch(part), part) for part in (range(8, 10), range(10, 12))]
    for position, part in enumerate(whole):
        assert torch.equal(part, torch.cat([half[position] for half in halves]))


def test_the_other_loss_is_the_absolute_difference() -> None:
    config = MeasurementConfig([ANY], loss="l1")
    reference = torch.full((1, 8, 8), 4.0)
    loss = ReconstructionObjective(config, 0, 1).loss(
        lambda *_: reference + 1, reference, reference, reference, reference
    )
    assert float(loss) == pytest.approx(1 / 4)


def test_a_loss_of_squares_and_the_penalty_of_the_network_itself() -> None:
    reference = torch.full((1, 8, 8), 4.0)
    config = MeasurementConfig([ANY], loss="l2")
    given = (reference, reference, reference, reference)
    assert float(ReconstructionObjective(config, 0, 1).loss(lambda *_: reference + 1, *given)) == pytest.approx(1 / 16)
    asked = []

    def network(*_: Any, penalised: bool) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(penalised)
        return reference + 1, torch.tensor(3.0)

    objective = ReconstructionObjective(config, 0, 1, penalty_weight=0.01)
    assert float(objective.loss(network, *given)) == pytest.approx(1 / 16 + 0.03)
    assert asked == [True]


def test_the_symmetry_of_ista_net_is_trained_by_its_weight(images: Path) -> None:
    config = config_of("ista_net", images)
    assert config.network.penalty_weight == pytest.approx(0.01)
    drawn = objective_of(config).draw(torch.view_as_real(phantom()).movedim(-1, 0)[None], [0])
    network, losses = new_state(config, CPU).network, []
    for weight in (0.0, 0.01, 1.0):
        free = config_of("ista_net", images, network={"architecture": "ista_net", "ista_net": {"symmetry": weight}})
        losses.append(float(objective_of(free).loss(network, *drawn).detach()))
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[0] == pytest.approx(100 * (losses[1] - losses[0]), rel=1e-3)


def test_a_critic_is_trained_with_the_network_and_resumed_with_it(images: Path) -> None:
    measurement = {"masks": [to_dict(ANY)], "critic": {"weight": 0.1, "features": 4, "levels": 2}, "loss": "l1"}
    config = config_of("sr_gan", images, total_images=16, measurement=measurement)
    fresh = new_state(config, CPU)
    assert fresh.critic is not None
    begun = {key: value.clone() for key, value in fresh.critic.state_dict().items()}
    whole = run(config, fresh)
    half = run(replace(config, total_images=8), new_state(config, CPU))
    again = new_state(config, CPU)
    again.load_state_dict(half.state_dict())
    run(config, again)
    assert whole.critic is not None
    assert again.critic is not None
    for module, resumed in ((whole.network, again.network), (whole.ema, again.ema), (whole.critic, again.critic)):
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), key
    assert all(not torch.equal(value, whole.critic.state_dict()[key]) for key, value in begun.items())


def test_a_network_without_a_critic_begins_as_one_with_it(images: Path) -> None:
    alone = new_state(config_of("sr_gan", images), CPU)
    assert alone.critic is None
    assert "critic" not in alone.state_dict()
    assert len(alone.optimizer.param_groups) == 1
    measurement = {"critic": {"features": 4, "levels": 1}}
    both = new_state(config_of("sr_gan", images, measurement=measurement), CPU)
    for key, value in alone.network.state_dict().items():
        assert torch.equal(value, both.network.state_dict()[key])


def test_training_betters_what_is_held_out(images: Path) -> None:
    config = config_of("varnet", images, total_images=320)
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    state = run(config, new_state(config, CPU))
    found = objective_of(config).validate(state.ema, held_out, CPU)
    assert found == objective_of(config).validate(state.ema, held_out, CPU)
    assert found["validation/psnr"] > found["validation/zero_filled_psnr"] + 0.5
    sheet, columns = objective_of(config).sheets(state.ema, held_out, CPU)["reconstructed"]
    assert sheet.shape == (9, 1, 24, 24)
    assert columns == 3
    assert objective_of(config).sheets(state.ema, None, CPU) == {}


@pytest.mark.parametrize("name", ["ista_net", "dudornet", "h_dslr", "sr_gan"])
def test_training_betters_what_a_fresh_network_makes(name: str, images: Path) -> None:
    config = config_of(name, images, total_images=320)
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    fresh, trained = new_state(config, CPU), run(config, new_state(config, CPU))
    before, after = (objective_of(config).validate(state.ema, held_out, CPU) for state in (fresh, trained))
    assert before["validation/psnr"] >= before["validation/zero_filled_psnr"] - 0.01
    assert after["validation/psnr"] > before["validation/psnr"] + 0.2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measurement": None}, "architecture unet reconstructs: give the section measurement"),
        ({"network": {}}, "architecture ncsnpp is a score network: leave out the section measurement"),
        ({"measurement": {"masks": []}}, "measurement.masks is empty"),
        ({"measurement": {"masks": [{"kind": "equispaced1"}]}}, "no mask 'equispaced1'"),
        ({"measurement": {"masks": [{"acceleration": [8, 4]}]}}, r"acceleration \[low, high\] of 1 and more"),
        ({"measurement": {"num_coils": [0, 4]}}, r"num_coils \[low, high\] of 1 and more"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], said: str, images: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config_of("unet", images, **changes)


def test_images_without_a_phase_are_refused(images: Path) -> None:
    data = {"stores": [str(images)], "crop": 24}
    with pytest.raises(ValueError, match=r"data.images real have 1 channels, the network has 2"):
        config_of("unet", images, data=data)
