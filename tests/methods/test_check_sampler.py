"""Every entry of the table of methods is held to the same, and the check sees what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from kdrift.methods import METHODS, Measurement, Method, Options
from kdrift.methods.samplers.annealed import AnnealedOptions
from kdrift.methods.samplers.pigdm import PiGDMOptions
from kdrift.methods.samplers.pnp_dm import PnPDMOptions
from kdrift.methods.samplers.smrd import SMRDOptions
from kdrift.testing import TAU, check_sampler, dense_matrix, gaussian_posterior
from recon_helpers import method_names


@pytest.mark.parametrize("name", method_names(lambda method: method.samples or not method.needs_prior))
def test_every_method_keeps_what_the_table_asks(name: str) -> None:
    check_sampler(METHODS[name], stops_early=name == "smrd")


@pytest.mark.parametrize("name", method_names(lambda method: method.samples))
def test_every_preset_costs_what_it_states(name: str) -> None:
    for preset in METHODS[name].presets.values():
        short = replace(preset, num_steps=min(21, preset.num_steps))  # type: ignore[call-arg, attr-defined]
        short = replace(short, early_stopping=False) if isinstance(short, SMRDOptions) else short
        check_sampler(METHODS[name], options=short)


def _put_back(problem: Measurement) -> tuple[torch.Tensor, torch.Tensor]:
    """What x + A^H (y - A x) makes of draws x of the posterior: what was measured is as it was, with its noise."""
    mean, covariance = gaussian_posterior(problem)
    matrix = dense_matrix(problem.A)
    unseen = torch.eye(len(mean), dtype=mean.dtype) - matrix.mH @ matrix
    return problem.data.flatten() + unseen @ mean, unseen @ covariance @ unseen


# The preset's levels as they are, in units of tau: they begin at 1.5 tau
_POSTERIOR: Any = METHODS["annealed"].presets["posterior"]
_UNIT = TAU / _POSTERIOR.prior_sigma
_PRESET = replace(
    _POSTERIOR,
    num_steps=24,
    prior_sigma=TAU,
    sigma_max=_UNIT * _POSTERIOR.sigma_max,
    sigma_min=_UNIT * _POSTERIOR.sigma_min,
)


@pytest.mark.parametrize(
    ("name", "options", "exact"),
    [
        ("annealed", AnnealedOptions(num_steps=20, sigma_max=20.0, prior_sigma=TAU, cg_iterations=40), True),
        pytest.param("annealed", replace(_PRESET, keep_measured=False), True, marks=pytest.mark.slow),
        pytest.param("annealed", _PRESET, _put_back, marks=pytest.mark.slow),
        pytest.param("pigdm", PiGDMOptions(num_steps=150, prior_sigma=TAU), True, marks=pytest.mark.slow),
        pytest.param(
            "pnp_dm",
            PnPDMOptions(num_steps=24, num_prior_steps=3, rho_max=3.0, rho_min=0.3, prior_sigma=TAU),
            partial(gaussian_posterior, coupling=0.3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "pnp_dm",
            PnPDMOptions(num_steps=60, num_prior_steps=2, rho_max=3.0, rho_min=0.1, prior_sigma=TAU),
            partial(gaussian_posterior, coupling=0.1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_exact_samplers_draw_the_posterior(name: str, options: Options, exact: Any) -> None:
    """Of one map set and of two, from noisy data."""
    check_sampler(METHODS[name], options=options, exact=exact)


@pytest.mark.slow
def test_the_check_sees_a_bias_that_is_small() -> None:
    """Noise put back, a coupling as large as the noise, levels that begin too low: each is seen with two map sets."""
    for name, options in (
        ("annealed", _PRESET),
        ("annealed", replace(_PRESET, keep_measured=False, sigma_max=0.1)),
        ("annealed", replace(_PRESET, keep_measured=False, spread=0.8)),
        ("pnp_dm", PnPDMOptions(num_steps=24, num_prior_steps=3, rho_max=3.0, rho_min=0.3, prior_sigma=TAU)),
    ):
        with pytest.raises(AssertionError, match="standard errors"):
            check_sampler(METHODS[name], options=options, exact=True)


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

    with pytest.raises(TypeError, match="are 3, expected 0: it has no network"):
        Method(classical, good, "x", needs=None)
