"""What sampling costs outside the network, and its peak memory.

320x320 with the shipped prior: Score-MRI's SSOS method on 15 coils, and the hybrid on 16 coils with 8 samples, each in
a process of its own. Run `python -m benchmarks.bench_sampler [--quick]` from the root.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import torch

from benchmarks.table import main
from kdrift.data.phantom import phantom_volume
from kdrift.mri.masks import make_mask
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.hardware import keep_freed_memory

COMMAND = "python -m benchmarks.bench_sampler"


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes 96x96."""
    size = 96 if quick else 320
    ssos = _in_process({"method": "score_mri_ssos", "size": size, "coils": 15, "samples": 1, "steps": 3})
    default = _in_process({"method": "annealed", "size": size, "coils": 15, "samples": 2, "steps": 6})
    hybrid = _in_process({"method": "score_mri_hybrid", "size": size, "coils": 16, "samples": 8, "steps": 2})
    rows = [
        {
            "name": f"outside the network, {name}, 15 coils {size}x{size}",
            "value": measured["sampler"],
            "unit": "s",
            "baseline": measured["network"],
            "ratio": measured["sampler"] / measured["network"],
            "target": "<= 0.05" if name == "SSOS" else "",
            "command": COMMAND,
        }
        for name, measured in (("SSOS", ssos), ("annealed", default))
    ]
    rows.append(
        {
            "name": f"peak memory, hybrid, 16 coils {size}x{size}, 8 samples",
            "value": hybrid["peak_gib"],
            "unit": "GiB",
            "baseline": None,
            "ratio": None,
            "target": "",
            "command": COMMAND,
        }
    )
    return rows


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Run one case in this process, after a warm-up, and return seconds by stage and peak memory."""
    keep_freed_memory()
    size = case["size"]
    phantom = phantom_volume(num_slices=1, rows=size, cols=size, num_coils=case["coils"], seed=0)
    kspace = torch.from_numpy(phantom.kspace)
    mask = make_mask("equispaced", (size, size), acceleration=4, acs_fraction=0.08).mask
    plan = Plan(method=case["method"], num_samples=case["samples"], settings={"num_steps": case["steps"]})
    if case["method"] != "score_mri_hybrid":
        reconstruct(kspace, mask, plan=Plan(method=case["method"], num_samples=1, settings={"num_steps": 2}))
    result = reconstruct(kspace, mask, plan=plan)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"sampler": result.stages["sampler"], "network": result.stages["network"], "peak_gib": peak}


def _in_process(case: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_sampler", "--case", json.dumps(case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    if "--case" in sys.argv:
        print(json.dumps(measure(json.loads(sys.argv[-1]))))
    else:
        main(run, __doc__ or "")
