"""Every entry of the table of methods is held to the same, and the check sees what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from kdrift.methods import METHODS, Method, Options
from kdrift.methods.samplers.annealed import AnnealedOptions
from kdrift.methods.samplers.pigdm import PiGDMOptions
from kdrift.methods.samplers.smrd import SMRDOptions
from kdrift.testing import TAU, check_sampler


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_keeps_what_the_table_asks(name: str) -> None:
    check_sampler(METHODS[name], stops_early=name == "smrd")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs_prior])
def test_every_preset_costs_what_it_states(name: str) -> None:
    for preset in METHODS[name].presets.values():
        short = replace(preset, num_steps=min(21, preset.num_steps))  # type: ignore[call-arg, attr-defined]
        short = replace(short, early_stopping=False) if isinstance(short, SMRDOptions) else short
        check_sampler(METHODS[name], options=short)


def test_exact_samplers_draw_the_posterior() -> None:
    annealed = AnnealedOptions(num_steps=20, sigma_max=20.0, prior_sigma=TAU, cg_iterations=40)
    check_sampler(METHODS["annealed"], options=annealed, exact=True)
    check_sampler(METHODS["pigdm"], options=PiGDMOptions(num_steps=150, prior_sigma=TAU), exact=True)


@dataclass(frozen=True)
class _Wrong(Options):
    num_steps: int = 4
    fault: str = "cost"

    @property
    def evaluations(self) -> int:
        return self.num_steps + (self.fault == "cost")


def _wrong(score: Any, sde: Any, measurement: Any, *, rng: Any, options: _Wrong, callback: Any = None) -> torch.Tensor:
    x = measurement.data + rng(*measurement.mask.shape)
    for step in range(options.num_steps):
        gradient = score(x, 1.0)
        size = gradient.norm() if options.fault == "batch" else torch.linalg.vector_norm(gradient, dim=(-2, -1)).sum()
        if options.fault == "batch":
            gradient = gradient / size
        if options.fault == "zero":
            gradient = gradient / torch.linalg.vector_norm(gradient, dim=(-2, -1), keepdim=True)
        x = x + 0.1 * gradient
        callback(0 if options.fault == "progress" else step + 1, options.num_steps, x, 0.1)
    return x[..., 0] if options.fault == "shape" else x


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("cost", "4 network calls, stated 5"),
        ("batch", "four chains together and one by one differ"),
        ("zero", "score of zero"),
        ("shape", "samples are"),
        ("progress", "progress counts"),
        ("posterior", "standard errors"),
    ],
)
def test_the_check_sees_what_is_wrong(fault: str, sentence: str) -> None:
    method = Method(_wrong, {"paper": _Wrong(fault=fault)}, "wrong")
    with pytest.raises(AssertionError, match=sentence):
        check_sampler(method, exact=fault == "posterior")


@dataclass(frozen=True)
class _Free(Options):
    weight: float = 1.0


@dataclass(frozen=True)
class _Costly(Options):
    @property
    def evaluations(self) -> int:
        return 3


def test_the_table_takes_methods_alone() -> None:
    good = {"paper": _Costly()}
    for function in (lambda: 0, print, len, 3):
        with pytest.raises(TypeError, match=r"must be called as|no function"):
            Method(function, good, "x")  # type: ignore[arg-type]
    for presets, sentence in (
        ({}, "one dataclass of Options, got none"),
        ({"paper": 3}, "got int"),
        ({"paper": _Costly(), "other": _Free()}, "got _Costly, _Free"),
        ({"paper": _Free()}, "evaluations of preset paper are 0, expected above 0"),
    ):
        with pytest.raises(TypeError, match=sentence):
            Method(_wrong, presets, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected chains of type Chains and a summary"):
        Method(_wrong, good, "x", "image")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="summary"):
        Method(_wrong, good, "")

    def classical(measurement: Any, *, options: _Costly) -> torch.Tensor:
        return measurement.data

    with pytest.raises(TypeError, match="are 3, expected 0: it has no prior"):
        Method(classical, good, "x", noise=None)
