"""Random streams: named by what they are for, the same everywhere, never the same for two names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ukd.rng import Purpose, stream

NAMES = st.tuples(
    st.sampled_from(Purpose), st.integers(0, 2**64 - 1), st.integers(0, 2**40), *[st.integers(0, 2**40 - 1)] * 3
)


@given(NAMES, NAMES)
def test_streams_are_equal_exactly_where_their_names_are(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    first = stream(Purpose(one[0]), *one[1:]).random(4)
    np.testing.assert_array_equal(first, stream(Purpose(one[0]), *one[1:]).random(4))
    assume(one != other)
    assert not np.array_equal(first, stream(Purpose(other[0]), *other[1:]).random(4))


@pytest.mark.parametrize("changed", range(6))
def test_each_part_of_the_name_counts(changed: int) -> None:
    name = [1, 7, 7, 7, 7, 7]
    before = stream(Purpose(name[0]), *name[1:]).bit_generator.random_raw(10_000)
    name[changed] += 1
    after = stream(Purpose(name[0]), *name[1:]).bit_generator.random_raw(10_000)
    assert not np.intersect1d(before, after).size  # Neither the same numbers nor the same ones shifted.


def test_the_order_of_ids_counts() -> None:
    assert stream(Purpose.AUGMENTATION, 0, 0, 1, 2).random() != stream(Purpose.AUGMENTATION, 0, 0, 2, 1).random()


def test_streams_stay_what_they_were() -> None:
    """Runs that were started by an earlier version resume with the same pixels."""
    raw = stream(Purpose.AUGMENTATION, 1, 2, 3, 4, 5).bit_generator.random_raw(2)
    philox = np.random.Philox(key=1 + (2 << 64), counter=((2 << 56 | 5) << 64) + (3 << 128) + (4 << 192))
    np.testing.assert_array_equal(raw, philox.random_raw(2))
