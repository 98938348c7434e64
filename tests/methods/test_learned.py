"""Learned methods: what the table asks of them, and which bundles they take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdrift.methods import METHODS
from kdrift.prior.bundle import load_prior, save_prior, shipped_for
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.front_door import reconstruct
from kdrift.recon.plan import Plan
from kdrift.sde import WhiteNoise
from kdrift.testing import check_learned, check_sampler
from reconstructor_helpers import SMALL, network_of

LEARNED = [name for name, method in METHODS.items() if method.needs_prior and not method.samples]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: save_prior(folder / f"my-{name}", network_of(name), SMALL[name], PriorInfo(None)) for name in SMALL}


def test_there_is_a_shipped_network_for_each() -> None:
    assert LEARNED == ["unet", "varnet"]
    assert all(shipped_for(METHODS[name].needs) for name in LEARNED)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_method_keeps_what_the_table_asks(name: str) -> None:
    check_learned(METHODS[name], network_of(name))
    with pytest.raises(AssertionError, match="check it by check_learned"):
        check_sampler(METHODS[name])


@pytest.mark.parametrize("name", LEARNED)
def test_a_bundle_comes_back_as_it_was(name: str, bundles: dict[str, Path]) -> None:
    prior = load_prior(bundles[name])
    assert prior.task == name
    for key, value in network_of(name).state_dict().items():
        assert torch.equal(prior.network.state_dict()[key], value)
    assert f"network: {name} (" in (bundles[name] / "README.md").read_text()
    with pytest.raises(ValueError, match=f"is a {name} that reconstructs: it has no score"):
        prior.score()


@pytest.mark.parametrize("name", LEARNED)
def test_one_image_goes_the_way_of_all(name: str, bundles: dict[str, Path]) -> None:
    torch.manual_seed(0)
    kspace = torch.randn(2, 3, 32, 32, dtype=torch.complex64)
    plan, mask = Plan(method=name, num_samples=8), torch.zeros(32, 32, dtype=torch.bool)
    mask[:, ::3] = mask[:, 12:20] = True
    result = reconstruct(kspace, mask, plan=plan, prior=str(bundles[name]))
    assert result.nfe == 1
    assert result.mean.shape == (2, 32, 32)
    assert float(result.std.max()) == 0
    assert result.config["num_samples"] == 1
    assert result.config["prior"]["name"] == f"my-{name}"
    seven = reconstruct(7 * kspace, mask, plan=plan, prior=str(bundles[name]))
    torch.testing.assert_close(seven.mean, 7 * result.mean, rtol=1e-3, atol=1e-3 * float(result.mean.max()))


def test_a_bundle_of_another_kind_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="method varnet needs a varnet that reconstructs, my-unet is a unet that recon"
    ):
        Plan(method="varnet").resolve(str(bundles["unet"]))
    with pytest.raises(
        ValueError, match="needs a prior trained on white noise, my-varnet is a varnet that reconstructs"
    ):
        Plan(method="dps").resolve(str(bundles["varnet"]))
    with pytest.raises(ValueError, match=r"needs a unet that reconstructs, .* was trained on white noise"):
        Plan(method="unet").resolve("brain-complex")
    wrong = save_prior(tmp_path / "wrong", network_of("unet"), SMALL["unet"], PriorInfo(WhiteNoise(0.01, 1.0)))
    with pytest.raises(ValueError, match="network unet and process white do not fit"):
        load_prior(wrong)
