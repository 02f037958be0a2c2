from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import sklearn.metrics.pairwise
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import tiny
from tests.commands import invoke
from tests.objectives.features import rotation
from tests.tiny import World
from ukd.cli.distill import app
from ukd.errors import UserError
from ukd.features import Features, Shape, Wanted
from ukd.objectives import Batch, options_models
from ukd.objectives.grids import Grid
from ukd.objectives.tokens import PROTEUS, Terms, Tokens

seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 4), st.integers(1, 4))
EVERY: Terms = {"token": 0.5, "feature": 1.0, "patch": 2.0, "map": 1.5, "affinity": 3.0}
every_term = pytest.mark.parametrize("term", EVERY)


def features(seed: int, num_images: int, dim: int, grid: Grid) -> Features:
    """Random fp64 features of a model whose pooled feature is one wider than its tokens."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(num_images, dim + 1, generator=generator, dtype=torch.float64)
    tokens = torch.randn(num_images, math.prod(grid), dim, generator=generator, dtype=torch.float64)
    return Features(pooled, tokens, grid)


def batch(seed: int, num_images: int, dims: tuple[int, int], student_grid: Grid, teacher_grid: Grid) -> Batch:
    student, teacher, masked = (
        features(seed + 2**32 * i, num_images, dim, grid)
        for i, (dim, grid) in enumerate([(dims[0], student_grid), (dims[1], teacher_grid), (dims[0], student_grid)])
    )
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_images, math.prod(student_grid), generator=generator) < 0.5
    return Batch({0: student}, {0: teacher}, torch.arange(num_images), masked=replace(masked, mask=mask))


def build(terms: Terms, dims: tuple[int, int] = (3, 4), **options: Any) -> Tokens:
    torch.manual_seed(0)
    return Tokens(dims[0] + 1, dims[1] + 1, *dims, terms=terms, **options).double()


def total(objective: Tokens, of: Batch) -> Tensor:
    return torch.stack(list(objective(of).values())).sum()


def only(term: str) -> Terms:
    terms: Terms = {term: 1.0}  # type: ignore[misc]
    return terms


def share_of(target: int, source: int, to_length: int, length: int) -> float:
    """Weight of a source cell in a target cell of one dimension: a triangle as wide as the coarser cells."""
    scale = length / to_length
    centre, width = (target + 0.5) * scale, max(scale, 1.0)

    def at(i: int) -> float:
        return max(0.0, 1 - abs(i + 0.5 - centre) / width)

    return at(source) / math.fsum(at(i) for i in range(length))


def on_grid(tokens: list[list[float]], grid: Grid, to_grid: Grid) -> list[list[float]]:
    """Tokens of one image on another grid, one number at a time."""
    found = []
    for y in range(to_grid[0]):
        for x in range(to_grid[1]):
            weights = [
                share_of(y, i, to_grid[0], grid[0]) * share_of(x, j, to_grid[1], grid[1])
                for i in range(grid[0])
                for j in range(grid[1])
            ]
            columns = zip(*tokens, strict=True)
            found.append([math.fsum(w * t for w, t in zip(weights, column, strict=True)) for column in columns])
    return found


def squares(a: list[list[float]], b: list[list[float]]) -> list[float]:
    return [(x - y) ** 2 for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True)]


def mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def affinities(tokens: list[list[float]], temp: float) -> list[list[float]]:
    found = []
    for a in tokens:
        cosines = [
            math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for b in tokens
        ]
        powers = [math.exp(cosine / temp) for cosine in cosines]
        found.append([power / math.fsum(powers) for power in powers])
    return found


def loop(term: str, objective: Tokens, of: Batch) -> float:
    """One term by its formula; its head sees one token at a time."""
    student, teacher, masked = of.student[0], of.teacher[0], of.masked
    assert student.grid and teacher.grid and student.tokens is not None and teacher.tokens is not None
    assert masked and masked.tokens is not None and masked.mask is not None

    def through(head: str, tokens: Tensor) -> list[list[float]]:
        return [objective.heads[head](token[None])[0].tolist() for token in tokens]

    pooled = squares(through("token", student.pooled), teacher.pooled.tolist()) if "token" in objective.heads else []
    if term == "token":
        return mean(pooled)
    if term == "patch":
        errors = []
        for tokens, target, mask in zip(masked.tokens, teacher.tokens.tolist(), masked.mask.tolist(), strict=True):
            targets = on_grid(target, teacher.grid, student.grid)
            shown = [row for row, hidden in zip(through("patch", tokens), mask, strict=True) if hidden]
            errors += squares(shown, [row for row, hidden in zip(targets, mask, strict=True) if hidden])
        num_expected = objective.mask_prob * objective.mask_share * masked.mask.numel()
        return math.fsum(errors) / (num_expected * teacher.tokens.shape[2])
    found = []
    for tokens, target in zip(student.tokens, teacher.tokens.tolist(), strict=True):
        projected = on_grid(through(term, tokens), student.grid, teacher.grid)
        if term == "affinity":
            pairs = zip(affinities(target, objective.temp), affinities(projected, objective.temp), strict=True)
            found += [math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in pairs]
        else:
            found += squares(projected, target)
    return mean(found + pooled) if term == "feature" else mean(found)


def test_map_and_feature_by_hand() -> None:
    # Errors of the tokens: 1, 2 and 0, 1; of the pooled feature, as wide as a token: 3 and 0.
    student = Features(torch.tensor([[3.0, 1.0]]), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), (1, 2))
    teacher = Features(torch.tensor([[0.0, 1.0]]), torch.tensor([[[0.0, 0.0], [3.0, 3.0]]]), (1, 2))
    found = Tokens(2, 2, 2, 2, terms={"map": 1.0, "feature": 2.0, "token": 1.0}, head="none")(
        Batch({0: student}, {0: teacher}, torch.arange(1))
    )
    assert {name: term.item() for name, term in found.items()} == {
        "map": (1 + 4 + 0 + 1) / 4,
        "feature": 2 * (9 + 0 + 1 + 4 + 0 + 1) / 6,
        "token": (9 + 0) / 2,
    }


def test_affinity_by_hand() -> None:
    # The teacher's two tokens are at right angles, the student's are one: (e, 1) / (e + 1) against (1, 1) / 2.
    student = Features(torch.zeros(1, 1), torch.tensor([[[2.0], [3.0]]]), (1, 2))
    teacher = Features(torch.zeros(1, 1), torch.tensor([[[5.0], [-5.0]]]), (2, 1))
    found = Tokens(1, 1, 1, 1, terms={"affinity": 1.0}, head="none", temp=2.0)(
        Batch({0: student}, {0: teacher}, torch.arange(1))
    )
    p = math.e / (math.e + 1)
    assert found["affinity"].item() == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))


def test_patch_by_hand() -> None:
    # One of two images has one of its two patches hidden, as half of half of all: the released code's mean is over it.
    student = Features(torch.zeros(2, 1), torch.tensor([[[1.0], [9.0]], [[9.0], [9.0]]]), (1, 2))
    mask = torch.tensor([[True, False], [False, False]])
    teacher = Features(torch.zeros(2, 1), torch.tensor([[[4.0], [5.0]], [[6.0], [7.0]]]), (1, 2))
    of = Batch({0: student}, {0: teacher}, torch.arange(2), masked=replace(student, mask=mask))
    assert Tokens(1, 1, 1, 1, terms={"patch": 1.0}, head="none")(of)["patch"] == 9


@given(
    seed=seeds,
    term=st.sampled_from(list(EVERY)),
    num_images=st.integers(1, 3),
    dims=st.tuples(*[st.integers(1, 4)] * 2),
    student_grid=grids,
    teacher_grid=grids,
    head=st.sampled_from(["linear", "ln_linear"]),
    temp=st.floats(0.05, 2),
)
def test_equals_a_loop_over_the_formula(
    seed: int,
    term: str,
    num_images: int,
    dims: tuple[int, int],
    student_grid: Grid,
    teacher_grid: Grid,
    head: str,
    temp: float,
) -> None:
    objective = build(only(term), dims, head=head, temp=temp, mask_prob=0.6, mask_share=0.3)
    of = batch(seed, num_images, dims, student_grid, teacher_grid)
    found = objective(of)
    assert list(found) == [term]
    assert found[term].item() == pytest.approx(loop(term, objective, of), rel=1e-10, abs=1e-10)


@given(seed=seeds)
def test_affinity_equals_scikit_learn_and_scipy(seed: int) -> None:
    of = batch(seed, 2, (4, 4), (2, 3), (2, 3))
    objective = Tokens(5, 5, 4, 4, terms={"affinity": 1.0}, head="none")
    p, q = (
        [scipy.special.softmax(sklearn.metrics.pairwise.cosine_similarity(image) / 0.07, axis=1) for image in tokens]
        for tokens in (of.teacher[0].tokens, of.student[0].tokens)
    )
    expected = scipy.special.rel_entr(np.stack(p), np.stack(q)).sum() / 12
    assert objective(of)["affinity"].item() == pytest.approx(expected, abs=1e-10)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_affinity_is_nothing_to_a_student_that_is_turned_and_scaled(seed: int, factor: float) -> None:
    teacher = features(seed, 2, 4, (2, 2))
    assert teacher.tokens is not None
    student = replace(teacher, tokens=factor * teacher.tokens @ rotation(4))
    objective = Tokens(5, 5, 4, 4, terms={"affinity": 1.0}, head="none")
    assert objective(Batch({0: student}, {0: teacher}, torch.arange(2)))["affinity"].abs() < 1e-10


def test_heads_are_those_of_the_terms_that_are_on() -> None:
    proteus = build(PROTEUS)
    assert set(proteus.heads) == {"token", "feature", "patch"}
    for name, head in proteus.heads.items():
        assert isinstance(head, nn.Sequential) and isinstance(head[0], nn.LayerNorm) and isinstance(head[1], nn.Linear)
        assert tuple(head[1].weight.shape) == ((5, 4) if name == "token" else (4, 3))
    assert set(build({"feature": 1.0}).heads) == {"token", "feature"}
    assert set(build({"map": 1.0, "affinity": 0.0}).heads) == {"map"}
    assert build({"map": 1.0}).mask_token is None and build({"map": 1.0}).masking() is None


def test_what_it_needs_and_how_it_hides_patches() -> None:
    objective = build({"patch": 1.0}, mask_prob=0.7, mask_share=0.2)
    masking = objective.masking()
    assert masking and masking.token is objective.mask_token and masking.token.shape == (3,)
    assert (masking.prob, masking.share) == (0.7, 0.2)
    assert objective.needs.student == objective.needs.of_teacher == Wanted(tokens=True)
    assert build({"token": 1.0}).needs.student == Wanted()


@every_term
def test_cutting_a_batch_changes_nothing(term: str) -> None:
    objective = build(only(term))
    of = batch(0, 6, (3, 4), (2, 3), (3, 2))
    assert of.masked

    def part(whole: Features, rows: list[int]) -> Features:
        assert whole.tokens is not None
        mask = None if whole.mask is None else whole.mask[rows]
        return replace(whole, pooled=whole.pooled[rows], tokens=whole.tokens[rows], mask=mask)

    halves = [
        Batch(
            {0: part(of.student[0], rows)}, {0: part(of.teacher[0], rows)}, of.index[rows], masked=part(of.masked, rows)
        )
        for rows in ([4, 0, 2], [3, 5, 1])
    ]
    found = torch.stack([total(objective, half) for half in halves]).mean()
    torch.testing.assert_close(found, total(objective, of), rtol=0, atol=1e-10)


@every_term
def test_gradient_to_the_student_and_none_to_the_teacher(term: str) -> None:
    objective = build(only(term))
    of = batch(0, 3, (3, 4), (2, 3), (3, 2))
    inputs = [of.student[0], of.teacher[0], of.masked]
    leaves = [x.requires_grad_() for each in inputs if each for x in (each.pooled, each.tokens) if x is not None]
    total(objective, of).backward()  # type: ignore[no-untyped-call]
    reached = [leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves]
    student_pooled, student_tokens = term in ("token", "feature"), term in ("feature", "map", "affinity")
    assert reached == [student_pooled, student_tokens, False, False, False, term == "patch"]
    heads = list(objective.heads.parameters())
    assert heads and all(parameter.grad is not None for parameter in heads)


def test_without_a_hidden_patch_the_loss_and_its_gradient_are_0() -> None:
    objective = build({"patch": 1.0})
    of = batch(0, 3, (3, 4), (2, 3), (3, 2))
    assert of.masked and of.masked.mask is not None and of.masked.tokens is not None
    of.masked.mask.zero_()
    loss = total(objective, of)
    of.masked.tokens.requires_grad_()
    total(objective, of).backward()  # type: ignore[no-untyped-call]
    assert loss == 0 and of.masked.tokens.grad is not None and not of.masked.tokens.grad.any()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in objective.heads.parameters())


@every_term
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e15])
def test_fp32_and_finite_under_autocast_at_batch_2(term: str, size: float) -> None:
    """The squares of what is not normalised leave the range of fp32 at 1e19."""
    objective = build(only(term)).float()

    def in_half(whole: Features) -> Features:
        assert whole.tokens is not None
        pooled, tokens = (x.bfloat16().mul(size).requires_grad_() for x in (whole.pooled, whole.tokens))
        return replace(whole, pooled=pooled, tokens=tokens)

    of = batch(0, 2, (3, 4), (2, 3), (3, 2))
    assert of.masked
    student, teacher, masked = (in_half(each) for each in (of.student[0], of.teacher[0], of.masked))
    with torch.autocast("cpu", torch.bfloat16):
        (loss,) = objective(Batch({0: student}, {0: teacher}, of.index, masked=masked)).values()
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    for x in (student.pooled, student.tokens, masked.tokens, *objective.parameters()):
        assert x is not None and (x.grad is None or x.grad.isfinite().all())


@every_term
def test_zero_and_equal_tokens_have_a_finite_gradient(term: str) -> None:
    objective = build(only(term)).float()
    for value in (0.0, 1.0):
        student = Features(torch.full((2, 4), value), torch.full((2, 6, 3), value, requires_grad=True), (2, 3))
        teacher = Features(torch.zeros(2, 5), torch.zeros(2, 6, 4), (2, 3))
        masked = replace(student, mask=torch.ones(2, 6, dtype=torch.bool))
        loss = total(objective, Batch({0: student}, {0: teacher}, torch.arange(2), masked=masked))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite() and student.tokens is not None
        assert student.tokens.grad is None or student.tokens.grad.isfinite().all()
        assert all(x.grad is None or x.grad.isfinite().all() for x in objective.parameters())


@every_term
def test_a_nan_of_the_student_reaches_the_loss(term: str) -> None:
    of = batch(0, 3, (3, 4), (2, 3), (3, 2))
    for each in (of.student[0], of.masked):
        assert each and each.tokens is not None
        each.pooled[1, 2] = math.nan
        each.tokens[1] = math.nan
    assert total(build(only(term)), of).isnan()


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = build(EVERY), build(EVERY, head="mlp2", hidden_dim=4)
    first.heads.apply(lambda module: nn.init.ones_(module.bias) if isinstance(module, nn.Linear) else None)
    third = build(EVERY)
    third.load_state_dict(first.state_dict())
    of = batch(0, 3, (3, 4), (2, 3), (3, 2))
    assert total(first, of) == total(third, of) != total(second, of)


def test_nothing_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"terms: none is on; give at least one of token, feature, patch, map, affin"):
        build({"map": 0.0})


def test_the_default_is_proteus() -> None:
    assert options_models()["tokens"]().model_dump()["terms"] == {"token": 1.0, "feature": 1.0, "patch": 1.0}


def test_patches_of_a_cnn_cannot_be_hidden() -> None:
    vit, cnn = Shape("vit", 4, 4, maskable=True), Shape("resnet", 4, 4)
    Tokens.for_models(vit, [cnn])
    with pytest.raises(UserError, match=r"from a ViT only, not from resnet; .* such as terms: {map: 1\.0}"):
        Tokens.for_models(cnn, [vit])
    Tokens.for_models(cnn, [vit], terms={"map": 1.0, "patch": 0.0})


CNN_MAP: dict[str, Any] = {**tiny.STUDENT, "kwargs": {**tiny.STUDENT["kwargs"], "output_stride": 8}}


@pytest.mark.parametrize(
    ("teacher", "student", "terms"),
    [
        ("vit", tiny.NORMLESS, {"token": 1.0, "feature": 1.0, "patch": 1.0}),
        ("vit", CNN_MAP, {"map": 1.0, "affinity": 1.0}),
        ("vit", tiny.STUDENT, {"feature": 1.0, "affinity": 1.0}),
        ("teacher", tiny.NORMLESS, {"patch": 1.0, "map": 1.0}),
        ("teacher", CNN_MAP, {"token": 1.0, "map": 1.0}),
    ],
    ids=["4x4 patches to 3x3 patches", "4x4 patches to 3x3 cells", "4x4 patches to a cell", "a cell to 3x3", "CNNs"],
)
def test_any_model_teaches_any_other(
    teacher: str, student: dict[str, Any], terms: Terms, world: World, tmp_path: Path
) -> None:
    weights = {"weights": str(getattr(world, teacher))}
    objective = {"name": "tokens", "terms": terms}
    raw = world.distillation(tmp_path / "run", teacher=weights, student=student, objective=objective)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"name": "tokens"},
            "objective tokens: terms.patch: patches can be hidden from a ViT only, not from resnet10t",
        ),
        ({"name": "tokens", "terms": {"maps": 1.0}}, "objective.terms.maps: unknown key; did you mean map?"),
        ({"name": "tokens", "terms": {"map": -1.0}}, "objective.terms.map: must be a number of at least 0"),
        ({"name": "tokens", "terms": {}}, "objective tokens: terms: none is on"),
        ({"name": "tokens", "terms": {"map": 1.0}, "head": "none"}, "objective tokens: head: none needs equal widths"),
    ],
)
def test_mistakes_end_in_their_message(objective: dict[str, Any], message: str, world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", objective=objective)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
