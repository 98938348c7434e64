"""A resolved plan with its prior, for tests that run chunks by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrift.prior.bundle import Prior
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import Steps, run_chunk
from kdrift.recon.slices import SliceData


@dataclass(frozen=True)
class Runner:
    plan: ResolvedPlan
    prior: Prior | None

    @property
    def config(self) -> dict[str, Any]:
        return self.plan.config

    @property
    def num_samples(self) -> int:
        return self.plan.num_samples

    @property
    def splits_coils(self) -> bool:
        return self.plan.method.chains.splits

    def run_chunk(self, data: SliceData, chunk: Chunk, steps: Steps | None = None) -> ChunkResult:
        return run_chunk(self.plan, self.prior, data, chunk, steps)


def resolve(plan: Plan, prior: Prior | str | None = None) -> Runner:
    loaded = prior if isinstance(prior, Prior) else load_prior_of(plan.method, prior)
    return Runner(plan.resolve(loaded), loaded)
