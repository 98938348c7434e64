"""A stopwatch adds up its blocks; of a GPU it measures what the GPU did."""

from __future__ import annotations

import time

import pytest
import torch

from kdrift.runs.stopwatch import Stopwatch, now


def test_blocks_are_added_up() -> None:
    device = torch.device("cpu")
    watch, began = Stopwatch(device), now(device)
    assert watch.seconds == 0
    for _ in range(2):
        with watch.measure():
            time.sleep(0.05)
        time.sleep(0.05)
    assert 0.1 <= watch.seconds < now(device) - began - 0.09


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_of_a_gpu_it_is_the_time_of_the_kernels() -> None:
    device = torch.device("cuda")
    watch, x = Stopwatch(device), torch.randn(4096, 4096, device=device)
    with watch.measure():
        asked = time.perf_counter()
        for _ in range(20):
            x = x @ x / 64
        asked = time.perf_counter() - asked
    assert watch.seconds > 2 * asked
