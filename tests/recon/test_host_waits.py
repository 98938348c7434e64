"""No step of a sampler makes the host wait for its accelerator, or sends it anything.

There is no accelerator here, so that a dispatch mode stands for one: it follows which tensors would lie on it (what is
given, and all that is made from that) and which on the host (numbers and lists that become tensors), and counts every
value that the host would ask of the former, and every array of the latter that meets them. The count of 16 steps less
that of 8 is what steps cost.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import kdrift.mri.cg
import kdrift.recon.guard
from kdrift.methods import METHODS, ChainNoise
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.network_score import NetworkScore
from kdrift.recon.guard import Guard
from kdrift.sde.noise_config import NoiseConfig
from kdrift.testing import gaussian_problem
from recon_helpers import method_names

ASKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero")
INDEXES = ("aten::index", "aten::index_put", "aten::index_put_")
SAMPLERS = method_names(lambda method: method.samples)
STOP_BY_THEMSELVES = {"smrd"}
"""Methods that ask which chains are left by design."""


class Waits(TorchDispatchMode):
    """Counts what would wait for an accelerator, by the line of kdrift that does it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()
        self._of_host = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split(".")[0]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        host = [tensor for tensor in given if tensor in self._of_host]
        beside = [tensor for tensor in given if tensor not in self._of_host]
        booleans = (
            [index for index in args[1] if index is not None and index.dtype == torch.bool] if name in INDEXES else []
        )
        if (name in ASKS and beside) or booleans or (beside and any(tensor.ndim for tensor in host)):
            self.found[name, _line(traceback.extract_stack())] += 1
        result = function(*args, **(kwargs or {}))
        if name == "aten::lift_fresh" or (host and not beside):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._of_host[tensor] = True
        return result


def _line(stack: Sequence[traceback.FrameSummary]) -> str:
    frames = [frame for frame in stack if "platform/kdrift" in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _waits(name: str, num_steps: int) -> Counter[tuple[str, str]]:
    method = METHODS[name]
    _, options = method.preset(None)
    problem = gaussian_problem(method.chains, size=16)
    problem = replace(problem, kspace=problem.kspace.to(torch.complex64), smaps=problem.smaps.to(torch.complex64))
    channels = 1 if method.images == "magnitude" else 2
    network = NCSNppConfig(
        channels=channels, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), image_size=16, centered=True,
        scale_by_sigma=False,
    )  # fmt: skip
    torch.manual_seed(0)
    built = build_network(NetworkConfig(ncsnpp=network, preconditioning="edm"))
    score = NetworkScore(built, returns="image", channels=channels, size_multiple=8, fast=False)
    noise = NoiseConfig(
        method.noise or "white", sigma_min=0.01, sigma_max=1.0 if method.needs == "attenuated" else 20.0
    )
    sde, parts = noise.process.sde(*problem.mask.shape), [range(count) for count in problem.A.ishape[:-2]]
    rng, guard = ChainNoise(5, 2, range(3), *parts), Guard(problem, 3)
    if hasattr(options, "num_steps"):
        options = replace(options, num_steps=num_steps)  # type: ignore[call-arg]
    if hasattr(options, "beta_max"):
        options = replace(options, beta_max=min(2.0, options.beta_max))  # type: ignore[call-arg]
    with Waits() as waits:
        method.function(score, sde, problem, rng=rng, options=options, callback=guard)
    return waits.found


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_waits_for_an_accelerator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kdrift.mri.cg, kdrift.recon.guard):
        monkeypatch.setattr(module, "asks_freely", lambda device: False)
    steps = 2 if name in ("daps", "pnp_dm") else 8  # each of their steps has many
    few, more = (_waits(name, num_steps) for num_steps in (steps, 2 * steps))
    if name in STOP_BY_THEMSELVES:
        assert any("smrd.py" in line for _, line in more), "smrd asks for its running chains: leave it out of the list"
        return
    assert not more - few, f"more steps wait {dict(more - few)}"


def test_what_waits_is_counted() -> None:
    x, mask = torch.ones(3), torch.tensor([True, False, True])
    with Waits() as waits:
        float(x.sum())
        x[mask]
        x + torch.tensor([1.0, 2.0, 3.0])
        x * torch.tensor(2.0)  # a number of the host goes along with the launch
        float(torch.tensor(2.0) + 1)
    assert [name for name, _ in waits.found] == ["aten::_local_scalar_dense", "aten::index", "aten::add"]
