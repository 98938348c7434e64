"""The process of the MRD server: `python -m kdrift_serve.mrd FILE`, beside a service on a cluster.

Without a file it is a child of `kdrift serve`: configuration and API key come in the first line of its input, and it
ends when its input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

from kdrift.runs.config import load_config, parse
from kdrift_serve.mrd.mrd_config import MrdConfig
from kdrift_serve.mrd.mrd_process import KEY_VARIABLE, READY
from kdrift_serve.mrd.server import MrdServer


def main(arguments: list[str]) -> int:
    """Serve until told to stop."""
    logging.basicConfig(format="%(asctime)s MRD: %(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        if len(arguments) == 1:
            config, key, child = load_config(MrdConfig, Path(arguments[0])), os.environ.get(KEY_VARIABLE, ""), False
        elif not arguments:
            said = json.loads(sys.stdin.readline())
            config, key, child = parse(MrdConfig, said["config"]), said["key"], True
        else:
            raise ValueError("expected one argument, a YAML file of kdrift_serve.mrd.mrd_config.MrdConfig")
        asyncio.run(_serve(config, key, child=child))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: MrdConfig, key: str, *, child: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if child:
        loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing comes but its end

    def ready() -> None:
        with contextlib.suppress(BrokenPipeError):
            print(READY, flush=True)

    await MrdServer(config, key).serve(stop, ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
