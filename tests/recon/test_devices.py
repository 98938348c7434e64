"""A GPU gives what a CPU gives. Where there is none the CPU takes its place, so that the tests are tried at least."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.methods import METHODS, ChainNoise, Measurement
from kdrift.mri.coils import espirit_maps
from kdrift.mri.masks import make_mask
from kdrift.mri.sense import sense_operator
from kdrift.prior.bundle import load_prior
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.sampling import choose_device

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
    ),
]  # fmt: skip
METHOD_NAMES = ["annealed", "score_mri_ssos", "dps", "pigdm", "red_diff", "tv", "l1_wavelet", "cg_sense"]


def _scan(size: int = 48, coils: int = 4) -> tuple[Tensor, Tensor]:
    kspace = torch.from_numpy(phantom_volume(1, size, size, coils, seed=3).kspace)
    mask = make_mask("equispaced", (size, size), acceleration=2, acs_fraction=0.3).mask
    return kspace, torch.as_tensor(mask)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_device_changes_no_image(method: str, device: str) -> None:
    """In float32 up to rounding, which the chains of a sampler carry on; the noise is the same to the bit."""
    kspace, mask = _scan()
    settings = {"num_steps": 4} if METHODS[method].samples else {}
    plan = Plan(method, settings=settings, num_samples=2, precision="float32", check=False)
    ours, theirs = (reconstruct(kspace, mask, plan=plan, device=each).mean for each in ("cpu", device))
    assert torch.linalg.vector_norm(theirs - ours) < 2e-3 * torch.linalg.vector_norm(ours)


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_gpu_computes_fast_is_close(device: str) -> None:
    kspace, mask = _scan()
    exact = reconstruct(kspace, mask, plan=Plan(num_samples=2, precision="float32", check=False), device="cpu").mean
    fast = reconstruct(kspace, mask, plan=Plan(num_samples=2, check=False), device=device).mean
    assert torch.linalg.vector_norm(fast - exact) < 2e-2 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("coils", "size"), [(4, 48), (7, 65), (15, 96), (32, 64)])
def test_maps_are_orthonormal(coils: int, size: int, device: str) -> None:
    """Batches of small Hermitian matrices, whose eigenvectors some libraries return wrong for some sizes."""
    kspace, _ = _scan(size, coils)
    found = espirit_maps(kspace[0].to(device), crop=0.0, num_sets=2).cpu()
    gram = torch.einsum("sc...,tc...->...st", found.conj(), found)
    assert (gram - torch.eye(2)).abs().max() < 1e-4
    expected = espirit_maps(kspace[0], crop=0.0, num_sets=2)
    overlap = (found[0].conj() * expected[0]).sum(0).abs()
    assert (1 - overlap).abs().quantile(0.99) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_operators_agree_with_float64(device: str) -> None:
    kspace, mask = _scan(65, 7)
    smaps = espirit_maps(kspace[0], crop=0.0)
    exact, ours = (
        sense_operator(maps, mask.to(maps.device)) for maps in (smaps.to(torch.complex128), smaps.to(device))
    )
    x = torch.randn(3, 65, 65, dtype=torch.complex128)
    for name in ("forward", "normal"):
        expected, found = getattr(exact, name)(x), getattr(ours, name)(x.to(device, torch.complex64)).cpu()
        torch.testing.assert_close(found.to(torch.complex128), expected, rtol=1e-4, atol=1e-4)
    b = exact.adjoint(kspace[0].to(torch.complex128)).expand(2, -1, -1)
    solved = ours.solve_normal(b.to(device, torch.complex64), 0.05, max_iter=60).cpu()
    torch.testing.assert_close(
        solved.to(torch.complex128), exact.solve_normal(b, 0.05, max_iter=200), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["annealed", "score_mri_ssos", "dps", "red_diff"])
def test_steps_do_not_wait(method: str, device: str) -> None:
    """CUDA's own check, from the second step to the last but one; test_host_waits.py counts without a GPU."""
    kspace, mask = _scan(32)
    on = choose_device(device)
    smaps = espirit_maps(kspace[0], crop=0.0).to(on)
    plan = Plan(method, settings={"num_steps": 6}, num_samples=2)
    prior = load_prior(Plan(method).resolve().prior.name, on)  # type: ignore[union-attr]
    resolved = plan.resolve(prior)
    data = torch.where(mask, kspace[0], 0) / kspace.abs().max()
    measurement = Measurement(data.to(on), mask.to(on), smaps, 0.01, chains=resolved.method.chains)
    parts = [range(count) for count in measurement.A.ishape[:-2]]
    rng = ChainNoise(0, 0, range(2), *parts, device=on)
    told = list[int]()

    def watch(done: int, total: int, images: Tensor, level: float) -> None:
        told.append(done)
        if on.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if 1 <= done < total - 1 else "default")

    try:
        resolved.method.function(
            resolved.score(prior),
            prior.sde(*mask.shape),
            measurement,
            rng=rng,
            options=resolved.options,
            callback=watch,
        )
    finally:
        if on.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert told == list(range(1, 7))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_that_is_too_small_halves_its_batches() -> None:
    prior = replace(load_prior("brain-complex", "cuda"))
    torch.cuda.empty_cache()  # what earlier tests left to the allocator would be memory too
    free, _ = torch.cuda.mem_get_info()
    hold = torch.empty(max(0, free - 2**30), dtype=torch.uint8, device="cuda")
    score = prior.score(max_images=64)
    x = torch.randn(64, 320, 320, dtype=torch.complex64, device="cuda")
    assert torch.isfinite(torch.view_as_real(score(x, 0.1))).all()
    assert score.max_images is not None
    assert score.max_images < 64
    del hold
