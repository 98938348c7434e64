"""Seeds: no two streams or keys share one, and their values stay what they are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from kdrift.runs.seeds import Stream, derive_seed, numpy_rng, torch_generator

ROOT = Path(__file__).resolve().parents[2]
STREAMS: tuple[Stream, ...] = get_args(Stream)


def test_no_two_keys_of_any_stream_share_a_seed() -> None:
    numbers = (0, 1, 2, 5, 255, 256, 65_536, 2**32, 2**63, 2**64)
    keys = [key for length in (1, 2, 3) for key in itertools.product(numbers, repeat=length)]
    keys += [(0, number) for number in range(3, 20_000)]
    keys += [(5, *(0,) * zeros) for zeros in range(3, 8)]
    keys = sorted(set(keys))
    seeds = {derive_seed(stream, *key) for stream in STREAMS for key in keys}
    assert len(seeds) == len(STREAMS) * len(keys) > 400_000
    lower = {seed & 0xFFFFFFFF for seed in seeds}
    assert len(lower) < len(seeds), "32 bits are too few, as `torch_generator` says"


def test_values_stay_what_they_are() -> None:
    assert derive_seed("weights", 0) == 1284760289944471519
    assert derive_seed("chain", 5, 3, 0, 2) == 5151680415255007373
    assert derive_seed("noise", 2**63 - 1, np.int64(199_999)) == 12111879848055915875
    assert numpy_rng("mask", 7).integers(2**32, size=2).tolist() == [4098029373, 713172710]
    assert torch.randint(2**32, (2,), generator=torch_generator("chain", 5, 3, 0, 2)).tolist() == [
        1264394074,
        1880979873,
    ]


def test_order_and_number_of_keys_matter() -> None:
    seeds = [derive_seed("chain", *key) for key in ((5,), (5, 0), (5, 0, 0), (0, 5), (0, 0, 5))]
    assert len(set(seeds)) == 5
    assert derive_seed("chain", 1, 23) != derive_seed("chain", 12, 3)


def test_generators_of_seeds_that_agree_in_32_bits_differ() -> None:
    """torch's own seeding does not tell them apart."""
    seeds: dict[int, int] = {}
    for number in range(400_000):
        value = derive_seed("chain", 0, number)
        if value & 0xFFFFFFFF in seeds:
            break
        seeds[value & 0xFFFFFFFF] = number
    pair = (seeds[value & 0xFFFFFFFF], number)
    by_seed = [torch.Generator().manual_seed(derive_seed("chain", 0, key)) for key in pair]
    first, second = (torch.randn(8, generator=generator) for generator in by_seed)
    assert torch.equal(first, second)
    first, second = (torch.randn(8, generator=torch_generator("chain", 0, key)) for key in pair)
    assert not torch.isclose(first, second).any()


def test_normal_numbers_of_many_generators_are_normal() -> None:
    drawn = torch.stack([torch.randn(64, generator=torch_generator("noise", 1, index)) for index in range(4000)])
    assert abs(float(drawn.mean())) < 5 / drawn.numel() ** 0.5
    assert abs(float(drawn.var()) - 1) < 5 * (2 / drawn.numel()) ** 0.5
    correlation = (drawn[:-1] * drawn[1:]).mean(1)  # of neighbours
    assert abs(float(correlation.mean())) < 5 / drawn.numel() ** 0.5


def test_a_generator_goes_on_where_its_state_was_kept() -> None:
    generator = torch_generator("noise", 3)
    torch.randn(1000, generator=generator)
    state = generator.get_state()
    expected = torch.randn(5, generator=generator)
    assert torch.equal(torch.randn(5, generator=torch.Generator().set_state(state)), expected)


ALLOWED = {"torch.manual_seed(derive_seed": "torch's global generator, where a network draws its weights and dropout"}


def test_everything_random_is_seeded_here() -> None:
    makers = re.compile(
        r"default_rng\(|SeedSequence\(|PCG64\(|RandomState\(|manual_seed\(|random\.Random\(|random\.seed\("
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("platform", "serve", "jobs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "seeds.py"
        for line in path.read_text().splitlines()
        if makers.search(line) and not any(allowed in line for allowed in ALLOWED)
    ]
    assert found == []


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no stream 'chains', did you mean 'chain'"):
        derive_seed("chains", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 or larger, got -1"):
        derive_seed("chain", -1)
    with pytest.raises(ValueError, match="0 or larger, got -2"):
        derive_seed("chain", 0, -2)
