"""The one way to a Ray: a private one, unless a cluster is asked for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator

from kdrift.runs.hint import first_line

NAMESPACE = "kdrift"
"""Namespace of everything that kdrift names on a cluster."""


LATE = "timed out during startup"
"""What Ray says where one of its processes did not come up in time."""


@contextlib.contextmanager
def ray_session(
    address: str | None,
    *,
    echo: Callable[[str], None],
    cpus: int | None = None,
    object_store_bytes: int | None = None,
    metrics_port: int | None = None,
) -> Iterator[bool]:
    """Connect to Ray for the block, and say in one line to which; yield whether an autoscaler may add to it.

    `address`, else the variable RAY_ADDRESS (which Ray sets in its jobs), names a cluster: HOST:PORT, or `auto` for the
    one on this machine. Without either, or with `local`, a private Ray is started and stopped again; whatever cluster
    runs on the machine is left alone. A Ray that this process is connected to already is used as it is.

    Parameters
    ----------
    cpus, object_store_bytes
        CPUs and object store of a private Ray; None: what the machine has, and Ray's share of its memory.
    metrics_port
        Where a private Ray exports its metrics to Prometheus; None: at a port of its choice.

    Raises
    ------
    ValueError
        If the address is that of a dashboard.
    OSError
        If no cluster answers there, or a private Ray does not come up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        echo(f"Ray: the one of this process, {_resources()}")
        yield bool(os.environ.get("RAY_ADDRESS"))
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    private = address == "local"
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address} is a dashboard, which takes jobs (--submit). The address of a cluster (--address, else"
            " RAY_ADDRESS) is HOST:PORT, or auto for the one on this machine; local is a private one"
        )
    if private:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else workers yield to anything else that runs
    try:
        ray.init(
            address=address,
            num_cpus=cpus if private else None,
            object_store_memory=object_store_bytes if private else None,
            include_dashboard=False if private else None,
            _metrics_export_port=metrics_port if private else None,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray's time-outs are bare exceptions
        if private and LATE in str(error):
            ray.shutdown()
            raise OSError(
                "Ray did not come up within its 30 seconds: the machine is busy; try again, or start it by ray start"
                " --head and name it by --address auto"
            ) from None
        if private or not isinstance(error, (ConnectionError, RuntimeError)):
            raise
        raise OSError(
            f"no Ray cluster answers at {address} ({first_line(error)}); --address local starts a private one"
        ) from None
    which = "private" if private else f"cluster at {ray.get_runtime_context().gcs_address}"
    try:
        echo(f"Ray: {which}, {_resources()}")
        yield not private
    finally:
        ray.shutdown()


def own_cpus(wanted: int | None) -> int | None:
    """Return the CPUs of a private Ray for so many processes of one: at most those of the machine. None: all."""
    return None if wanted is None else max(1, min(wanted, os.cpu_count() or 1))


def _resources() -> str:
    import ray

    found = ray.cluster_resources()
    counts = [(int(found.get("CPU", 0)), "CPU"), (int(found.get("GPU", 0)), "GPU")]
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count or word == "CPU")
