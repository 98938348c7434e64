"""What is done on one node of a Ray cluster, or is tried on each."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PROBE_S = 60.0
"""How long a node may take to answer a probe, seconds."""


def this_node() -> str:
    """Return the id of the Ray node that this process runs on."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found


def on_node(node: str, function: Callable[..., T], *words: Any) -> T:
    """Return what a function gives on a node, beside whatever else that node does.

    Raises what it raises.
    """
    import ray

    try:
        found: T = ray.get(begun(node, function, *words))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return found


def actor_on(node: str, kind: type, *words: Any, max_concurrency: int = 1) -> Any:
    """Return an actor of a class on a node, beside whatever else that node does; it ends with this process.

    It does up to `max_concurrency` calls at once, in threads.
    """
    import ray

    return ray.remote(kind).options(max_concurrency=max_concurrency, **_there(node)).remote(*words)


def check_shared(folder: Path, echo: Callable[[str], None]) -> None:
    """Raise ValueError unless all nodes that can work see and may write into a folder, which exists.

    It is tried before any work: each node reads what was written here, and here is read what each node wrote.
    """
    import ray

    here = this_node()
    others = {node: name for node, name in working_nodes().items() if node != here}
    if not others:
        return
    word = uuid.uuid4().hex
    probe = folder / f".probe-{word[:12]}"
    probe.write_text(word)
    calls = {begun(node, _answer, probe, word): (node, name) for node, name in others.items()}
    try:
        ready, late = ray.wait(list(calls), num_returns=len(calls), timeout=PROBE_S)
        for call in late:
            echo(f"note: node {calls[call][1]} did not say within {PROBE_S:.0f} s whether it sees {folder}")
            ray.cancel(call, force=True)
        for call in ready:
            node, name = calls[call]
            answer, fault = _named(probe, node), ray.get(call)
            if fault is None and (not answer.is_file() or answer.read_text() != word):
                fault = f"what it writes there is not seen on {socket.gethostname()}"
            if fault is not None:
                raise ValueError(
                    f"node {name} cannot write into {folder}: {fault}; name an output that all nodes share, or a URL"
                    " such as s3://bucket/x"
                )
    finally:
        for path in (probe, *(_named(probe, node) for node in others)):
            with contextlib.suppress(OSError):
                path.unlink()


def working_nodes() -> dict[str, str]:
    """Return the names of the nodes that have CPUs to work with, by their ids."""
    import ray

    return {
        node["NodeID"]: str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0)
    }


def begun(node: str, function: Callable[..., Any], *words: Any) -> Any:
    """Begin a call on a node, beside whatever else that does; return Ray's reference of its result."""
    import ray

    return ray.remote(function).options(max_retries=0, **_there(node)).remote(*words)


def _there(node: str) -> dict[str, Any]:
    """Return Ray's options for what runs on a node and takes none of its CPUs."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}


def _answer(probe: Path, word: str) -> str | None:
    """Read the probe and write an answer beside it; return what is wrong, None where all is well."""
    try:
        if not probe.is_file():
            return "what was written there by the driver is not seen"
        if probe.read_text() != word:
            return "what is read there is not what was written"
        _named(probe, this_node()).write_text(word)
    except OSError as error:
        return str(error.strerror or error)
    return None


def _named(probe: Path, node: str) -> Path:
    return probe.with_name(f"{probe.name}-{node[:12]}")
