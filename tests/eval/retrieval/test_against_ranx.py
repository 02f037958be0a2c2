"""Average precision of whole lists against ranx (Bassani, ECIR 2022)."""

from __future__ import annotations

import numpy as np
import pytest
from ranx import Qrels, Run, evaluate

from ukd.eval.retrieval.metrics import step_ap

NUM_QUERIES, NUM_ROWS = 40, 60


# numba casts without a loss what ranx counts.
@pytest.mark.filterwarnings("ignore:unsafe cast from uint64 to int64")
def test_average_precision_equals_that_of_ranx() -> None:
    rng = np.random.default_rng(0)
    relevance = rng.random((NUM_QUERIES, NUM_ROWS)) < rng.uniform(0.02, 0.6, (NUM_QUERIES, 1))
    relevance[np.arange(NUM_QUERIES), rng.integers(NUM_ROWS, size=NUM_QUERIES)] = True
    names = [f"q{query:02d}" for query in range(NUM_QUERIES)]
    wanted = {name: {f"d{row}": 1 for row in np.flatnonzero(of)} for name, of in zip(names, relevance, strict=True)}
    ranking = {f"d{row}": float(NUM_ROWS - row) for row in range(NUM_ROWS)}
    found = evaluate(Qrels(wanted), Run({name: ranking for name in names}), "map", return_mean=False)
    np.testing.assert_allclose(step_ap(relevance, relevance.sum(1)), found, rtol=0, atol=1e-9)
