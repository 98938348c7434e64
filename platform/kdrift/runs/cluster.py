"""How kdrift gets a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def ray_session(address: str | None, cpus: int | None, object_store_bytes: int) -> Iterator[None]:
    """Use the Ray that runs, or connect to `address` / RAY_ADDRESS, or start a private one for the block.

    `cpus` (default: all) and `object_store_bytes` are those of a private one.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address:
        ray.init(address=address, namespace="kdrift", log_to_driver=False, logging_level=logging.ERROR)
    else:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else workers yield to anything else that runs
        available = os.cpu_count() or 1
        ray.init(
            num_cpus=max(1, min(cpus or available, available)),
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            namespace="kdrift",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
