"""All C at once against scikit-learn one by one: objectives, accuracies, the certificate; stages of precision."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ukd.eval import logistic_grid
from ukd.eval.logistic import LogisticFit
from ukd.eval.logistic_grid import Problem, fit_all
from ukd.eval.newton import newton_direction

CS = [1e-4, 1e-2, 1.0, 10.0]
CPU = torch.device("cpu")
Split = tuple[np.ndarray, np.ndarray]


def problem(num: int, dim: int, num_classes: int, seed: int = 0) -> Split:
    """Columns of very different lengths, not centred, and overlapping classes of uneven sizes."""
    rng = np.random.default_rng(seed)
    number = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=num - num_classes) // 2])
    centres = np.random.default_rng(9).standard_normal((num_classes, dim))
    features = centres[number] + 2 * rng.standard_normal((num, dim))
    return (features @ np.diag(np.logspace(-1.5, 0.5, dim)) + 2).astype(np.float32), 3 * number


def objective(weight: np.ndarray, c: float, rows: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's, from its definition: C times the summed cross-entropy, and half the squared weights."""
    scores = rows.astype(np.float64) @ weight[:, :-1].T + weight[:, -1]
    scores = np.hstack([np.zeros((len(rows), 1)), scores]) if len(weight) == 1 else scores
    number = np.searchsorted(np.unique(labels), labels)
    losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(rows)), number]
    return float(c * losses.sum() + np.square(weight[:, :-1]).sum() / 2)


@pytest.mark.parametrize("shape", [(300, 12, 2), (300, 12, 3), (400, 8, 30), (60, 150, 4)])
def test_every_c_is_at_scikit_learns_optimum(shape: tuple[int, int, int]) -> None:
    rows, labels = problem(*shape)
    test, targets = problem(*shape, seed=1)
    for c, head in zip(CS, fit_all(rows, labels, CS, tol=1e-7, max_iter=2000, device=CPU), strict=True):
        oracle = LogisticRegression(C=c, tol=1e-8, max_iter=5000, solver="newton-cholesky")
        oracle.fit(rows.astype(np.float64), labels)
        theirs = objective(np.column_stack([oracle.coef_, oracle.intercept_]), c, rows, labels)
        assert objective(head.weight, c, rows, labels) == pytest.approx(theirs, rel=1e-6)
        assert head.correct(test, targets).mean() == oracle.score(test.astype(np.float64), targets)
        assert head.certificate()[0] <= 1e-7


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_certificate_is_that_of_the_other_solver(num_classes: int) -> None:
    rows, labels = problem(200, 6, num_classes)
    (head,) = fit_all(rows, labels, [3.0], tol=1e-12, max_iter=2, device=CPU)
    fit = LogisticFit(rows, labels, tol=1, max_iter=1)
    fit.to(3.0)
    scale, mean = fit._scale, fit._mean
    fit._model.coef_ = head.weight[:, :-1] * scale
    fit._model.intercept_ = head.weight[:, -1] + head.weight[:, :-1] @ mean
    grad_norm, num_iter = head.certificate()
    assert grad_norm == pytest.approx(fit.certificate()[0], rel=1e-9) and num_iter == 2


def hard_problems() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((120, 6))
    labels = (rows @ rng.standard_normal((6, 3)) + rng.standard_normal((120, 3))).argmax(axis=1)
    yield "ill-scaled columns", rows * np.logspace(-5, 3, 6), labels
    turned = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    yield "ill-scaled, no column its own axis", rows * np.logspace(-3, 0, 6) @ turned, labels
    yield "repeated, constant and empty columns", np.hstack([rows, rows, np.ones((120, 2)), np.zeros((120, 1))]), labels
    yield "separable, two classes", rows + 3 * np.sign(rows[:, :1]), (rows[:, 0] > 0).astype(int)
    yield "separable, three classes", 8 * np.eye(3)[labels] @ rng.standard_normal((3, 6)) + rows, labels
    yield "nearly separable", *problem(100, 12, 3)


@pytest.mark.parametrize(("rows", "labels"), [pytest.param(*each[1:], id=each[0]) for each in hard_problems()])
def test_hard_problems_and_extreme_c_end_at_the_optimum(rows: np.ndarray, labels: np.ndarray) -> None:
    cs, rows = [1e-8, 1.0, 1e4, 1e8], rows.astype(np.float32)
    fit = LogisticFit(rows, labels, tol=1, max_iter=1)
    inner = LogisticRegression(max_iter=10_000, tol=1e-9, solver="newton-cholesky")
    for c, head in zip(cs, fit_all(rows, labels, cs, tol=1e-8, max_iter=1000, device=CPU), strict=True):
        assert head.certificate()[0] <= 1e-8
        # On the same centred and scaled features: as they are, scikit-learn's own line search fails at large C.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = inner.set_params(C=c * fit._scale**2).fit(fit._rows, labels)
        own = oracle.coef_ / fit._scale
        theirs = objective(np.column_stack([own, oracle.intercept_ - own @ fit._mean]), c, rows, labels)
        # What the gradient vouches for: the mean loss is at most |gradient|^2 / 2 of the least curvature off.
        off = head.weight.size * 1e-8**2 * c * fit._scale**2 * len(rows) / 2
        assert objective(head.weight, c, rows, labels) <= theirs * (1 + 1e-9) + off * c * len(rows)


def test_newton_s_direction_solves_its_equation() -> None:
    rng = np.random.default_rng(0)
    factors = torch.from_numpy(rng.standard_normal((3, 8, 8)))
    hessians = factors @ factors.mT + 0.01 * torch.eye(8, dtype=torch.float64)
    gradient = 1e-16 * torch.from_numpy(rng.standard_normal((3, 2, 4)))

    def times(vector: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        return (hessians[heads] @ vector.flatten(1)[..., None]).view_as(vector)

    diagonal = hessians.diagonal(dim1=1, dim2=2).reshape(3, 2, 4)
    found = newton_direction(gradient, times, diagonal)
    exact = torch.linalg.solve(hessians, -gradient.flatten(1)).view_as(found)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-20)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_hessian_is_the_change_of_the_gradient(num_classes: int) -> None:
    rows, labels = problem(80, 5, num_classes)
    wide = torch.from_numpy(np.column_stack([rows, np.ones(80)]))
    targets = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    penalty = torch.tensor([0.1, 2.0], dtype=torch.float64)[:, None, None].repeat(1, 1, 6)
    hessians = Problem(wide, torch.eye(5, dtype=torch.float64), targets, num_classes, penalty)
    heads = torch.tensor([1, 0])
    shape = (2, hessians.width, 6)
    weight, vector = (torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)) for seed in (1, 2))
    after, before = (hessians.value_and_gradient(weight + step * vector, heads)[1] for step in (1e-5, -1e-5))
    torch.testing.assert_close(
        hessians.hessian_times(vector, weight, heads), (after - before) / 2e-5, rtol=1e-6, atol=1e-7
    )
    units = torch.eye(hessians.width * 6, dtype=torch.float64).view(-1, hessians.width, 6)
    entries = [(hessians.hessian_times(unit.expand(shape), weight, heads) * unit).sum((1, 2)) for unit in units]
    diagonal = torch.stack(entries, dim=1).view(shape)
    torch.testing.assert_close(hessians.hessian_diagonal(weight, heads), diagonal, rtol=1e-10, atol=0)


def test_single_precision_first_ends_in_the_same_place() -> None:
    rows, labels = problem(300, 12, 4)
    plain = fit_all(rows, labels, CS, tol=1e-7, max_iter=2000, device=CPU)
    staged = fit_all(rows, labels, CS, tol=1e-7, max_iter=2000, device=CPU, dtypes=(torch.float32, torch.float64))
    rough = fit_all(rows, labels, CS, tol=1e-7, max_iter=2000, device=CPU, dtypes=(torch.float32,))
    for ours, theirs, single in zip(staged, plain, rough, strict=True):
        np.testing.assert_allclose(ours.weight, theirs.weight, rtol=1e-3, atol=1e-3)
        assert ours.certificate()[0] <= 1e-7 < single.certificate()[0] < 1e-3


def test_tiles_and_company_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = problem(150, 6, 3)
    together = fit_all(rows, labels, CS, tol=1e-8, max_iter=2000, device=CPU)
    monkeypatch.setattr(logistic_grid, "TILE_ENTRIES", 100)
    for c, head in zip(CS, together, strict=True):
        (alone,) = fit_all(rows, labels, [c], tol=1e-8, max_iter=2000, device=CPU)
        np.testing.assert_allclose(head.weight, alone.weight, rtol=1e-4, atol=1e-3)


def test_features_all_alike_and_ties_predict_the_lowest_class() -> None:
    same, labels = np.full((6, 2), 0.5, np.float32), np.repeat([4, 9], 3)
    (head,) = fit_all(same, labels, [1.0], tol=1e-6, max_iter=50, device=CPU)
    assert head.correct(same, labels).tolist() == 3 * [True] + 3 * [False]
