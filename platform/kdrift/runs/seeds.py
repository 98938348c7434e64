"""Seeds of everything random: of training images, their noise, and sampling chains."""

from __future__ import annotations

import numpy as np


def derive_seed(*keys: int) -> int:
    """Return a 63-bit seed that depends on every key and on their order."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
