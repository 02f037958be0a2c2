"""Random numbers as functions of what they are for. Nothing is ever saved or restored, so resume is exact for free."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for; streams of different purposes never overlap."""

    ORDER = 0
    NEIGHBOURS = 1
    AUGMENTATION = 2
    STEP = 3
    MIXING = 4
    CORRUPTION = 5


def stream(purpose: Purpose, seed: int, epoch: int, *ids: int) -> np.random.Generator:
    """Returns the random stream of (purpose, seed, epoch, ids), the same on every rank, worker and resumed run.

    Philox (Salmon et al., SC 2011) is counter-based: key and counter name the stream, and no state has to be carried.

    Args:
        purpose: What the numbers are for.
        seed: The recipe's seed, from 0 to 2**64 - 1.
        epoch: Pass over the data, at least 0.
        *ids: At most three numbers below 2**40 that name the sample, for example image, anchor and view.
    """
    first, second, third = (*ids, 0, 0, 0)[:3]
    # uint64 throughout: numpy would take a list with a number above 2**63 for floats, and round.
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, (int(purpose) << 56) | third, first, second], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
