"""The service on one machine: a private Ray, stopped with everything on it when told to."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from kdrift.runs.cluster import ray_session
from kdrift_serve.app import build_application
from kdrift_serve.auth import is_loopback_host, load_keys
from kdrift_serve.front import ENVIRONMENT
from kdrift_serve.mrd.mrd_config import MrdConfig
from kdrift_serve.mrd.mrd_process import api_key, beside, mrd_beside
from kdrift_serve.serve_config import HttpOptions, ServeConfig

OBJECT_STORE_BYTES = 512 << 20


def serve_here(
    http: HttpOptions,
    config: ServeConfig,
    *,
    mrd: MrdConfig | None = None,
    metrics_port: int | None = None,
    echo: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then stop the service and Ray; with `mrd` take MRD streams too.

    `metrics_port` is where Prometheus may read. On a loopback address no API keys are needed; where there are some,
    they are asked for. Raises ValueError if there are none for another address, or a value cannot be used; OSError if
    a port is taken or the service does not start.
    """
    config = replace(config, auth=replace(config.auth, keyless_on_loopback=is_loopback_host(http.host)))
    keys = load_keys(config.auth)
    _check_port(http.host, http.port)
    key = ""
    if mrd is not None:
        mrd, key = beside(mrd, http, config), api_key(config) if keys else ""
        _check_port(mrd.host, mrd.port)
    application = build_application(config)
    with _ray(config.samplers.most * config.samplers.num_cpus, metrics_port, echo) as stop:
        from ray import serve
        from ray.serve.config import HTTPOptions

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        options = HTTPOptions(host=http.host, port=http.port, request_timeout_s=http.request_timeout_s)
        try:
            serve.start(proxy_location="HeadOnly", http_options=options)
            if not stop.is_set():
                serve.run(application, name="kdrift", route_prefix="/")
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise OSError(f"the service did not start: {lines[-1] if lines else error}") from None
        if not stop.is_set():
            shown = f"[{http.host}]" if ":" in http.host else http.host
            asked = "API keys are asked for" if keys else "open to this machine, without API keys"
            echo(f"serving at http://{shown}:{http.port} ({asked}); jobs in {config.storage}; Ctrl-C stops")
        with mrd_beside(None if stop.is_set() else mrd, key, echo) as look_after:
            told = ""
            while not stop.wait(1.0):  # a wait without end would not see signals
                look_after()
                keys.all()
                if keys.fault != told:
                    told = keys.fault
                    echo(told or "the file of API keys is used again")
        echo("stopping")  # with Ray; asking Serve first only adds its time-outs


@contextlib.contextmanager
def _ray(num_cpus: int, metrics_port: int | None, echo: Callable[[str], None]) -> Iterator[threading.Event]:
    """Start a private Ray for the block; yield an event that SIGINT and SIGTERM set."""
    # samplers have every core of this machine: Serve's own loops, ten times a second, take 5 % of one
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "1000")
    os.environ.update(ENVIRONMENT)
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ray_session(
            "local", cpus=num_cpus, object_store_bytes=OBJECT_STORE_BYTES, metrics_port=metrics_port, echo=echo
        ):
            for number in before:  # only now: Ray sets handlers of its own
                signal.signal(number, lambda *_: stop.set())
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from None
