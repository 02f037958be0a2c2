"""PCA whitening: against scikit-learn, and refused where it would be fitted on what it is evaluated on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ukd.errors import DataError
from ukd.eval.retrieval.whitening import fit, refuse_shared


def stretched(num: int, dim: int, seed: int = 0) -> np.ndarray:
    """Features of very different variances, far from the origin."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.standard_normal((dim, dim)))[0] * np.logspace(0, -2, dim)
    return (rng.standard_normal((num, dim)) @ mix.T + 10).astype(np.float32)


def test_the_fitted_images_come_out_white() -> None:
    features = stretched(500, 8)
    white = fit(features)(features).astype(np.float64)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(white.T @ white / 500, np.eye(8), atol=1e-3)


def test_similarities_are_those_of_scikit_learns_pca() -> None:
    fitted, other = stretched(500, 8), stretched(50, 8, seed=0) + 0.3
    expected = PCA(whiten=True).fit(fitted.astype(np.float64)).transform(other) * np.sqrt(500 / 499)
    found = fit(fitted)(other)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-3)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-2)


def test_directions_without_variance_are_dropped_and_said() -> None:
    features = np.concatenate([stretched(200, 5), np.full((200, 3), 7, dtype=np.float32)], axis=1)
    whitening = fit(features)
    assert whitening(features).shape == (200, 5)
    assert whitening.warnings == ("whitening: 200 images vary in 5 of 8 dimensions; the others are dropped",)
    few = fit(stretched(4, 8))
    assert few(stretched(10, 8)).shape == (10, 3)


def test_features_that_do_not_vary_are_refused() -> None:
    with pytest.raises(DataError, match="all 20 images have the same features"):
        fit(np.full((20, 4), 3.1, dtype=np.float32))
    with pytest.raises(DataError, match="all 1 images have the same features"):
        fit(stretched(1, 4))


def test_the_evaluated_images_are_refused_in_any_order_and_rounding() -> None:
    evaluated = stretched(100, 8)
    noise = 1 + 1e-6 * np.random.default_rng(1).standard_normal(evaluated.shape).astype(np.float32)
    again = np.concatenate([stretched(300, 8, seed=2), (evaluated * noise)[::-1]])
    with pytest.raises(DataError, match="--whiten: photos holds 100 of the 100 images that are evaluated"):
        refuse_shared(again, evaluated, "photos")


def test_few_shared_images_are_said_and_others_are_not() -> None:
    evaluated = stretched(100, 8)
    some = np.concatenate([stretched(300, 8, seed=2), evaluated[:3]])
    assert refuse_shared(some, evaluated, "photos") == ("whitening: 3 of the 100 images of the database are in photos",)
    assert refuse_shared(stretched(300, 8, seed=2), evaluated, "photos") == ()


def test_a_network_that_tells_images_hardly_apart_is_not_taken_for_one_that_saw_them() -> None:
    nearly = np.full(64, 100.0) + 1e-3 * np.random.default_rng(0).standard_normal((500, 64))
    assert refuse_shared(nearly[:300].astype(np.float32), nearly[300:].astype(np.float32), "photos") == ()
