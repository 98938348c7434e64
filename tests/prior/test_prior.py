"""Prior bundles: round trip, damage, names; the adapter that scores complex images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import SUMS, WEIGHTS, find_prior, load_prior, save_prior, shipped_priors
from kdrift.prior.bundle_home import bundle_home
from kdrift.prior.calibration import CALIBRATION
from kdrift.prior.network_score import NetworkScore, pad_to_multiple
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.runs.files import write_text
from kdrift.runs.mirror import VOUCHERS
from kdrift.runs.remote import Remote
from kdrift.sde import AttenuatedSDE, HighFrequencyNoise, HighFrequencySDE, LowFrequencies, WhiteNoise
from kdrift.sde.score import denoise
from recon_helpers import resolve
from s3_helpers import Server

CONFIG = NetworkConfig(
    NCSNppConfig(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), centered=True,
                 scale_by_sigma=False, init_scale=1.0),
    preconditioning="edm",
)  # fmt: skip
INFO = PriorInfo(WhiteNoise(0.01, 5.0))


def test_round_trip_and_checksums(tmp_path: Path) -> None:
    network = build_network(CONFIG)
    folder = save_prior(tmp_path / "p", network, CONFIG, INFO)
    save_prior(tmp_path / "p", network, CONFIG, INFO)  # replaces
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]
    prior = load_prior(folder)
    assert prior.name == "p"
    assert prior.sigma_range == (0.01, 5.0)
    assert prior.network_config == CONFIG
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.1, 1.0])
    torch.testing.assert_close(prior.network(x, sigma), network.eval()(x, sigma))
    (folder / "config.yaml").write_text("network: {}\n")
    with pytest.raises(ValueError, match=r"config\.yaml does not match"):
        load_prior(folder)


def test_a_configuration_edited_by_hand_is_said_to_be_so(tmp_path: Path) -> None:
    """The error has the command that makes the edit good."""
    folder = save_prior(tmp_path / "my prior", build_network(CONFIG), CONFIG, INFO)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"# edited\n{text}")
    with pytest.raises(ValueError, match=r"config\.yaml does not match SHA256SUMS") as caught:
        load_prior(folder)
    subprocess.run(str(caught.value).partition("say so: ")[2], shell=True, check=True)
    assert load_prior(folder).name == "my prior"
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"README\.md does not match"):
        load_prior(folder)
    (folder / "SHA256SUMS").write_text("garbage")
    with pytest.raises(ValueError, match="SHA256SUMS is damaged"):
        load_prior(folder)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    other = NetworkConfig(NCSNppConfig(image_size=16, nf=8, ch_mult=(1,), num_res_blocks=1))
    folder = save_prior(tmp_path / "p", build_network(CONFIG), other, INFO)
    with pytest.raises(ValueError, match="weights do not fit"):
        load_prior(folder)


def test_unknown_names_are_answered_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no prior 'nothing'"):
        load_prior("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no prior"):
        load_prior(tmp_path / "empty")


@pytest.mark.parametrize("name", shipped_priors())
def test_shipped_priors_load_fit_the_size_limit_and_denoise(name: str) -> None:
    prior = load_prior(name)
    folder = Path(__file__).parents[2] / "platform/kdrift/prior/shipped" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    assert (folder / "training.log").is_file()
    assert "command" in (folder / "README.md").read_text()
    assert yaml.safe_load((folder / "config.yaml").read_text())["info"]["training"]["seed"] is not None
    if not prior.is_score:
        return
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = ((rows**2 + cols**2) < 0.6).float() * 0.6
    clean = torch.complex(disc, -0.5 * disc)
    noise, sde = torch.complex(torch.randn(64, 64), torch.randn(64, 64)), prior.sde(64, 64)
    if isinstance(sde, AttenuatedSDE):  # k-space, and what counts is what is left under G
        window = sde.attenuation(sde.time(torch.tensor(0.1)), 64, 64)
        noisy, part, bound = ifft2c(window * fft2c(clean)) + 0.1 * noise, lambda x: ifft2c(window * fft2c(x)), 0.7
    else:
        noisy, part, bound = clean + 0.1 * sde.project(noise), sde.project, 0.2
    denoised = denoise(prior.score(), noisy[None], 0.1)[0]
    assert part(denoised - clean).abs().square().mean() < bound * part(noisy - clean).abs().square().mean()


class _Linear(torch.nn.Module):
    """A stand-in network with a known answer: the denoiser of white Gaussian images."""

    def __init__(self) -> None:
        super().__init__()
        self.tau = torch.nn.Parameter(torch.tensor(0.5))
        self.calls: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls.append(len(x))
        variance = self.tau**2
        return x * (variance / (variance + sigma**2))[:, None, None, None]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 7, 9), (5, 6)])
def test_magnitude_score_views_pads_chunks_and_counts(shape: tuple[int, ...]) -> None:
    network = _Linear()
    score = NetworkScore(network, returns="image", size_multiple=4, max_images=3, fast=False)
    x = torch.randn(*shape, dtype=torch.complex64)
    torch.testing.assert_close(score(x, 0.3), -x / (0.5**2 + 0.3**2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoise(score, x, 0.3), x * 0.25 / 0.34, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score(x.real, 0.3), -x.real / 0.34, rtol=1e-4, atol=1e-4)
    assert max(network.calls) <= 3
    assert score.num_images == (2 + 2 + 1) * int(torch.tensor(shape[:-2]).prod())
    per_image = torch.rand(shape[:-2]) + 0.1
    torch.testing.assert_close(score(x, per_image), -x / (0.25 + per_image[..., None, None] ** 2), rtol=1e-4, atol=1e-4)


def test_a_network_of_other_units_sees_scaled_images_at_scaled_levels() -> None:
    """Images of 3 units are of deviation 3 tau in the network's: the score of x is 3 times that of 3 x at 3 sigma."""
    x = torch.randn(2, 6, 5, dtype=torch.complex64)
    score = NetworkScore(_Linear(), returns="image", scale=3.0, fast=False)
    torch.testing.assert_close(score(x, 0.3), -9 * x / (0.25 + 0.81), rtol=1e-4, atol=1e-4)
    assert NetworkScore(_Linear(), returns="image", fast=False).size_multiple == 1


class _Levels(torch.nn.Module):
    """The score of white Gaussian images at numbered levels."""

    def __init__(self) -> None:
        super().__init__()
        self.tau = torch.nn.Parameter(torch.tensor(0.5))
        self.register_buffer("sigmas", torch.tensor([10.0, 1.0, 0.1]))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        assert level.dtype == torch.int64
        return -x / (self.tau**2 + self.get_buffer("sigmas")[level] ** 2)[:, None, None, None]


def test_a_network_of_numbered_levels_gives_the_denoised_image_of_the_nearest() -> None:
    x = torch.randn(3, 6, 5, dtype=torch.complex64)
    score = NetworkScore(_Levels(), returns="score", conditioning="level", fast=False)
    for sigma, level in ((0.8, 1.0), (0.33, 1.0), (0.3, 0.1), (3.0, 1.0), (3.3, 10.0)):  # nearest in the logarithm
        denoised = x - level**2 * x / (0.25 + level**2)
        torch.testing.assert_close(x + sigma**2 * score(x, sigma), denoised, rtol=1e-4, atol=1e-4)
    each = score(x, torch.tensor([0.8, 3.3, 0.09]))
    for row, sigma in enumerate((0.8, 3.3, 0.09)):
        torch.testing.assert_close(each[row], score(x[row], sigma))


def test_padding_reflects_and_is_cropped() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert pad_to_multiple(x, 4).shape == (1, 1, 4, 4)
    assert torch.equal(pad_to_multiple(x, 4), x[..., [0, 1, 2, 1], :])
    assert torch.equal(pad_to_multiple(x, 5), x[..., [0, 1, 2, 1, 0], :][..., [0, 1, 2, 3, 2]])
    assert torch.equal(pad_to_multiple(x.mT, 4), x[..., [0, 1, 2, 1], :].mT)
    assert float(pad_to_multiple(torch.ones(1, 1, 1, 1), 8).sum()) == 1  # too small to be reflected: zeros
    assert pad_to_multiple(x, 1) is x
    assert pad_to_multiple(torch.ones(1, 1, 1, 1), 8).shape == (1, 1, 8, 8)


def test_prior_of_two_channels_scores_complex_images_only(tmp_path: Path) -> None:
    config = NetworkConfig(NCSNppConfig(image_size=16, channels=2, nf=8, ch_mult=(1,), num_res_blocks=1))
    folder = save_prior(tmp_path / "p", build_network(config), config, INFO)
    score = load_prior(folder).score(fast=False, max_images=2)
    x = torch.randn(3, 16, 16, dtype=torch.complex64)
    parts = torch.stack([x.real, x.imag], 1)
    expected = score.network(parts, torch.full((3,), 0.2))
    torch.testing.assert_close(score(x, 0.2), torch.complex(expected[:, 0], expected[:, 1]))
    assert score.num_images == 3
    with pytest.raises(ValueError, match="real image needs a magnitude prior"):
        score(x.real, 0.2)


def test_gradients_pass_to_the_image_and_not_to_the_network() -> None:
    score = NetworkScore(_Linear(), returns="image", max_images=2, fast=False)
    x = torch.randn(3, 4, 4, dtype=torch.complex64, requires_grad=True)
    denoise(score, x, 0.3).abs().square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * (0.25 / 0.34) ** 2 * x.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED, no memory")]
)
def test_a_batch_that_memory_does_not_hold_is_halved_and_that_is_remembered(error: RuntimeError) -> None:
    class Small(_Linear):
        def __init__(self, holds: int) -> None:
            super().__init__()
            self.holds = holds

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            result = super().forward(x, sigma)
            if len(x) > self.holds:
                raise error
            return result

    network, x = Small(2), torch.randn(7, 4, 4, dtype=torch.complex64)
    found = NetworkScore(network, returns="image", fast=False)(x, 0.5)
    assert torch.equal(found, NetworkScore(_Linear(), returns="image", fast=False)(x, 0.5))
    assert network.calls == [8, 4, *[2] * 7]
    assert NetworkScore(network, returns="image", fast=False).max_images == 2
    with pytest.raises(type(error), match="no memory"):
        NetworkScore(Small(0), returns="image", fast=False)(x, 0.5)


def test_another_error_halves_nothing() -> None:
    class Broken(_Linear):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            self.calls.append(len(x))
            raise RuntimeError("sizes do not match")

    network = Broken()
    with pytest.raises(RuntimeError, match="sizes"):
        NetworkScore(network, returns="image", fast=False)(torch.randn(7, 4, 4, dtype=torch.complex64), 0.5)
    assert network.calls == [8]


def test_prior_of_high_frequencies_says_so(tmp_path: Path) -> None:
    config = NetworkConfig(NCSNppConfig(image_size=16, channels=2, nf=8, ch_mult=(1,), num_res_blocks=1))
    info = PriorInfo(HighFrequencyNoise(0.01, 5.0, LowFrequencies("columns", 0.25)))
    prior = load_prior(save_prior(tmp_path / "p", build_network(config), config, info))
    sde = prior.sde(8, 16)
    assert prior.task == "high_frequency"
    assert isinstance(sde, HighFrequencySDE)
    assert sde.low.sum(-1).tolist() == [4] * 8
    with pytest.raises(ValueError, match=r"needs a prior trained on white noise, p was .* brain-magnitude"):
        resolve(Plan(), prior)


def test_a_bundle_at_a_url(server: Server, url: str) -> None:
    folder = find_prior("brain-hfs")
    for path in folder.iterdir():
        server.write(f"{url}/{path.name}", path.read_bytes())
    server.write(f"{url}/.hidden", b"not of it")
    found = find_prior(url)
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert load_prior(url).sha256 == load_prior("brain-hfs").sha256
    assert find_prior(f"{url}/") == found, "copied once"
    with pytest.raises(ValueError, match="it has no SHA256SUMS"):
        find_prior(f"{url}/nothing")


def test_a_bundle_is_never_there_in_part(server: Server, url: str) -> None:
    """While one bundle takes the place of another, its SHA256SUMS speaks for what is there, or is not there."""
    assert {SUMS, "pathology.json"} < set(VOUCHERS)
    seen: list[tuple[str, ...]] = []
    done = Remote.send

    def noted(self: Remote, path: Path, name: str) -> None:
        done(self, path, name)
        seen.append(tuple(server.shown(url)))

    def write(folder: Path, **contents: str) -> None:
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            write_text(folder / name.replace("__", "."), content)

    with bundle_home(url, what="test", echo=print) as folder:
        write(folder, model__safetensors="1", calibration__yaml="1", config__yaml="1", SHA256SUMS="1")
    assert server.shown(url) == [SUMS, CALIBRATION, "config.yaml", WEIGHTS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remote, "send", noted)
        with bundle_home(url, what="test", echo=print) as folder:
            assert (folder / CALIBRATION).read_text() == "1"
            (folder / CALIBRATION).unlink()
            write(folder, model__safetensors="2", SHA256SUMS="2")
    assert seen
    assert all(SUMS not in names for names in seen)
    assert server.shown(url) == [SUMS, "config.yaml", WEIGHTS]
    assert server.read(f"{url}/{SUMS}") == b"2"
