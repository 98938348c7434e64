"""A registered prior as MLflow's Python function: k-space and mask in, mean, deviation and verdict out.

`mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict({"kspace": kspace, "mask": mask})`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdrift.methods import methods_for
from kdrift.prior.bundle import Prior, load_prior
from kdrift.recon.front_door import reconstruct
from kdrift.runs.registry import PARAMS


class PriorModel:
    """Reconstructs slices with one prior."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.method = method_for(prior)

    def predict(self, model_input: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Reconstruct `kspace`, complex64 `(slice, coil, row, col)`, sampled where `mask` `(row, col)` is true.

        Returns `mean`, complex64 `(slice, row, col)`, `std`, float32, of its magnitude, and `verdict`, a word a slice.
        Raises ValueError for what `kdrift.reconstruct` refuses.
        """
        unknown = set(model_input) - {"kspace", "mask"}
        if unknown or len(model_input) != 2:
            raise ValueError(f"expected kspace and mask, got {', '.join(sorted(model_input))}")
        given = {**PARAMS, **(params or {})}
        result = reconstruct(
            np.asarray(model_input["kspace"]), np.asarray(model_input["mask"]), prior=self.prior,
            method=given["method"] or self.method, preset=given["preset"] or None, samples=given["samples"],
            steps=given["steps"] or None, seed=given["seed"],
        )  # fmt: skip
        levels = [result.verdict_of(index).level for index in result.numbers]
        return {"mean": result.mean.numpy(), "std": result.std.numpy(), "verdict": np.asarray(levels)}


def method_for(prior: Prior) -> str:
    """Return the first method that a prior serves. Raises ValueError where none does."""
    able = methods_for(prior.task, prior.network_config.images)
    if not able:
        raise ValueError(f"no method takes the prior {prior.name} ({prior.task})")
    return able[0]


def _load_pyfunc(path: str) -> PriorModel:
    """MLflow's entry: load the bundle in a folder."""
    return PriorModel(load_prior(Path(path)))
