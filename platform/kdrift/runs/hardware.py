"""What the machine can do, and how memory is kept on it."""

from __future__ import annotations

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are faster than in float32 on this device (detected, not assumed)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def set_up(device: torch.device, threads: int) -> None:
    """Make this process ready to train on a device: threads, and on a GPU the fast paths of its arithmetic."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def asks_freely(device: torch.device) -> bool:
    """Whether a loop may ask for a value at every step: an accelerator that works ahead would have to be waited for."""
    return device.type == "cpu"


def lacks_memory(error: RuntimeError) -> bool:
    """Whether a device's memory was too small: cuDNN and cuBLAS say so by names of their own."""
    names = "ALLOC_FAILED", "ALLOCATION_FAILED", "out of memory"
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in names)


def keep_freed_memory() -> bool:
    """Make glibc keep large freed blocks for this process; return whether it did.

    By default every tensor over 32 MiB is mapped and page-faulted anew, which makes CPU work on it 2 to 3 times slower.
    Peak memory is the same; it is given back when the process ends. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a process that Ray starts: what `keep_freed_memory` does, and as many threads as CPUs lent."""
    return {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
        "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
        "OMP_NUM_THREADS": str(threads),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
