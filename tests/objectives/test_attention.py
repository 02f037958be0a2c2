from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import tiny
from tests.commands import invoke
from tests.tiny import World
from ukd.cli.distill import app
from ukd.errors import UserError
from ukd.features import Features, Shape
from ukd.objectives import Batch
from ukd.objectives.attention import Attention, bounded, joined, regridded
from ukd.objectives.grids import Grid

seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 4), st.integers(1, 4))
Weights = list[float]


def features(seed: int, num_images: int, dim: int, heads: int, grid: Grid, sharpness: float = 2.0) -> Features:
    """Random fp64 features of a ViT; much sharpness leaves most weights near 0."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(num_images, dim, generator=generator, dtype=torch.float64)
    logits = torch.randn(num_images, heads, 1 + math.prod(grid), generator=generator, dtype=torch.float64)
    return Features(pooled, grid=grid, attention=(sharpness * logits).softmax(-1))


def batch(student: Features, teacher: Features) -> Batch:
    return Batch({0: student}, {0: teacher}, torch.arange(len(student.pooled)))


def build(student_dim: int = 3, teacher_dim: int = 4, **options: Any) -> Attention:
    torch.manual_seed(0)
    return Attention(student_dim, teacher_dim, **options).double()


def total(objective: Attention, of: Batch) -> Tensor:
    return torch.stack(list(objective(of).values())).sum()


def cubic(distance: float) -> float:
    """Weight of a cell in a cubic convolution with the parameter -3/4, as torch takes it."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def interpolated(patches: Weights, grid: Grid, to_grid: Grid) -> Weights:
    """Bicubic; beyond the border the last cell goes on."""
    found = []
    for y in range(to_grid[0]):
        for x in range(to_grid[1]):
            at_y, at_x = ((i + 0.5) * n / to - 0.5 for i, n, to in zip((y, x), grid, to_grid, strict=True))
            around_y, around_x = (range(math.floor(at) - 1, math.floor(at) + 3) for at in (at_y, at_x))
            found.append(
                math.fsum(
                    cubic(at_y - i)
                    * cubic(at_x - j)
                    * patches[min(max(i, 0), grid[0] - 1) * grid[1] + min(max(j, 0), grid[1] - 1)]
                    for i in around_y
                    for j in around_x
                )
            )
    return found


def on_student_grid(weights: Weights, grid: Grid, to_grid: Grid) -> Weights:
    patches = [max(1e-5, weight) for weight in interpolated(weights[1:], grid, to_grid)]
    return [weights[0], *((1 - weights[0]) * patch / math.fsum(patches) for patch in patches)]


def product(heads: list[Weights], temp: float) -> Weights:
    logits = [math.fsum(math.log(weight) for weight in of_token) / temp for of_token in zip(*heads, strict=True)]
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def clamped(weights: Weights) -> Weights:
    inside = [min(max(weight, 1e-5), 0.996) for weight in weights]
    return [weight / math.fsum(inside) for weight in inside]


def loop(student: Features, teacher: Features, temp: float) -> float:
    """The divergence as the released code has it, one number at a time."""
    assert student.attention is not None and teacher.attention is not None and student.grid and teacher.grid
    by_image = []
    for s, t in zip(student.attention.tolist(), teacher.attention.tolist(), strict=True):
        if student.grid != teacher.grid:
            t = [on_student_grid(head, teacher.grid, student.grid) for head in t]
        if len(s) != len(t):
            s, t = [product(s, temp)], [product(t, temp)]
        pairs = [(clamped(a), clamped(b)) for a, b in zip(t, s, strict=True)]
        by_image.append(math.fsum(p * math.log(p / q) for a, b in pairs for p, q in zip(a, b, strict=True)))
    return math.fsum(by_image) / len(by_image)


def test_by_hand() -> None:
    # Two heads and one patch. The first head sees (1/2, 1/2) and should see (1/4, 3/4); the second is right.
    student = Features(torch.zeros(1, 2), grid=(1, 1), attention=torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]))
    teacher = Features(torch.tensor([[3.0, 1.0]]), grid=(1, 1), attention=torch.tensor([[[0.25, 0.75], [0.1, 0.9]]]))
    objective = Attention(2, 2, attention_weight=2.0)
    objective.head = nn.Identity()
    found = objective(batch(student, teacher))
    assert found["class_token"].item() == (9 + 1) / 2
    assert found["attention"].item() == pytest.approx(2 * (math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4))


def test_a_coarser_grid_by_hand() -> None:
    # Columns of four cells on two: halfway between cells 0 and 1, and 2 and 3, so that the weights are
    # (-3, 19, 19, -3) / 32 and the border's cell counts twice.
    patches = [0.1, 0.3, 0.2, 0.2]
    attention = torch.tensor([0.2, *patches], dtype=torch.float64).view(1, 1, 5)
    left = (-3 * 0.1 + 19 * 0.1 + 19 * 0.3 - 3 * 0.2) / 32
    right = (-3 * 0.3 + 19 * 0.2 + 19 * 0.2 - 3 * 0.2) / 32
    found = regridded(attention, (1, 4), (1, 2))
    expected = torch.tensor([0.2, 0.8 * left / (left + right), 0.8 * right / (left + right)], dtype=torch.float64)
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-12)


def test_where_interpolation_leaves_nothing_the_patches_share_alike() -> None:
    # Cells 0 and 3 of four have the weight -3 / 32 in a single one.
    attention = torch.tensor([[[0.2, 0.4, 0.0, 0.0, 0.4]]])
    torch.testing.assert_close(regridded(attention, (1, 4), (1, 1)), torch.tensor([[[0.2, 0.8]]]))


def test_joined_heads_are_a_tempered_product() -> None:
    attention = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]], dtype=torch.float64)
    product = torch.tensor([0.1, 0.1, 0.1]) ** 0.5
    torch.testing.assert_close(joined(attention, 2.0).flatten(), (product / product.sum()).double())


@given(
    seed=seeds,
    num_images=st.integers(1, 3),
    heads=st.tuples(*[st.integers(1, 3)] * 2),
    student_grid=grids,
    teacher_grid=grids,
    sharpness=st.floats(0, 5),
    temp=st.floats(0.5, 20),
)
def test_equals_a_loop_over_the_formula(
    seed: int,
    num_images: int,
    heads: tuple[int, int],
    student_grid: Grid,
    teacher_grid: Grid,
    sharpness: float,
    temp: float,
) -> None:
    student = features(seed, num_images, 3, heads[0], student_grid, sharpness)
    teacher = features(seed + 1, num_images, 4, heads[1], teacher_grid, sharpness)
    found = build(attention_weight=1.0, temp=temp)(batch(student, teacher))
    assert found["attention"].item() == pytest.approx(loop(student, teacher, temp), rel=1e-10, abs=1e-10)


@given(seed=seeds, heads=st.integers(1, 3))
def test_equals_torchs_divergence_as_the_released_code_calls_it(seed: int, heads: int) -> None:
    student, teacher = features(seed, 4, 3, heads, (2, 2)), features(seed + 1, 4, 4, heads, (2, 2))
    assert student.attention is not None and teacher.attention is not None
    s, t = bounded(student.attention), bounded(teacher.attention)
    expected = 0.1 * nn.functional.kl_div(s.log(), t, reduction="batchmean")
    torch.testing.assert_close(build()(batch(student, teacher))["attention"], expected, rtol=0, atol=1e-10)


@given(seed=seeds, grid=grids, to_grid=grids)
def test_on_another_grid_the_class_token_keeps_its_weight_and_the_patches_share_the_rest(
    seed: int, grid: Grid, to_grid: Grid
) -> None:
    attention = features(seed, 2, 1, 3, grid).attention
    assert attention is not None
    found = regridded(attention, grid, to_grid)
    assert found.shape == (2, 3, 1 + math.prod(to_grid)) and (found >= 0).all()
    assert torch.equal(found[..., 0], attention[..., 0])
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_class_tokens_head_is_that_of_the_released_code() -> None:
    head = build(3, 5).head
    assert isinstance(head, nn.Sequential)
    kinds = [nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear, nn.LayerNorm]
    assert [type(layer) for layer in head] == kinds
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [
        (6, 3),
        (3, 6),
        (6, 3),
        (5, 6),
    ]
    student, teacher = features(0, 4, 3, 2, (2, 2)), features(1, 4, 5, 2, (2, 2))
    expected = nn.functional.mse_loss(head(student.pooled), teacher.pooled)
    torch.testing.assert_close(build(3, 5)(batch(student, teacher))["class_token"], expected, rtol=0, atol=1e-12)


PAIRS = {
    "same": (features(0, 6, 3, 2, (2, 3)), features(1, 6, 4, 2, (2, 3))),
    "other heads and grid": (features(0, 6, 3, 2, (2, 3)), features(1, 6, 4, 3, (4, 2))),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def rows(whole: Features, order: list[int]) -> Features:
    assert whole.attention is not None
    return replace(whole, pooled=whole.pooled[order], attention=whole.attention[order])


@every_pair
def test_cutting_a_batch_changes_nothing(name: str) -> None:
    student, teacher = PAIRS[name]
    halves = [total(build(), batch(rows(student, order), rows(teacher, order))) for order in ([4, 0, 2], [3, 5, 1])]
    expected = total(build(), batch(student, teacher))
    torch.testing.assert_close(torch.stack(halves).mean(), expected, rtol=0, atol=1e-10)


def leaves(whole: Features) -> Features:
    assert whole.attention is not None
    pooled, attention = (x.detach().clone().requires_grad_() for x in (whole.pooled, whole.attention))
    return replace(whole, pooled=pooled, attention=attention)


@every_pair
def test_gradient_to_the_student_and_none_to_the_teacher(name: str) -> None:
    student, teacher = (leaves(each) for each in PAIRS[name])
    objective = build()
    total(objective, batch(student, teacher)).backward()  # type: ignore[no-untyped-call]
    assert all(x is not None and x.grad is not None and x.grad.any() for x in (student.pooled, student.attention))
    assert all(x is not None and x.grad is None for x in (teacher.pooled, teacher.attention))
    assert all(x.grad is not None for x in objective.parameters())

    def divergence(attention: Tensor) -> Tensor:
        term: Tensor = objective(batch(replace(student, attention=attention), teacher))["attention"]
        return term

    assert torch.autograd.gradcheck(divergence, student.attention)


@every_pair
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e15])
def test_fp32_and_finite_under_autocast_at_batch_2(name: str, size: float) -> None:
    """The squares of the teacher's class token leave the range of fp32 at 1e19."""
    student, teacher = (rows(each, [0, 1]) for each in PAIRS[name])
    assert student.attention is not None and teacher.attention is not None
    one_patch = torch.zeros_like(student.attention, dtype=torch.float32)
    one_patch[..., 1] = 1.0
    itself = torch.zeros_like(teacher.attention, dtype=torch.float32)
    itself[..., 0] = 1.0
    student = leaves(Features((student.pooled * size).bfloat16(), grid=student.grid, attention=one_patch))
    teacher = Features((teacher.pooled * size).bfloat16(), grid=teacher.grid, attention=itself)
    objective = build().float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(batch(student, teacher))
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    for x in (student.pooled, student.attention, *objective.parameters()):
        assert x is not None and x.grad is not None and x.grad.isfinite().all()


def test_zero_and_equal_class_tokens_have_a_finite_gradient() -> None:
    student, teacher = (leaves(each) for each in PAIRS["same"])
    student = replace(student, pooled=torch.zeros(6, 3, dtype=torch.float64, requires_grad=True))
    total(build(), batch(student, teacher)).backward()  # type: ignore[no-untyped-call]
    assert student.pooled.grad is not None and student.pooled.grad.isfinite().all()


@every_pair
@pytest.mark.parametrize("part", ["pooled", "attention"])
def test_a_nan_of_the_student_reaches_the_loss(name: str, part: str) -> None:
    student, teacher = PAIRS[name]
    spoilt = getattr(student, part).clone()
    spoilt[1, 0] = math.nan
    assert total(build(), batch(replace(student, **{part: spoilt}), teacher)).isnan()


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = build(), build()
    nn.init.ones_(first.head[1].bias)  # type: ignore[index]
    assert total(first, batch(*PAIRS["same"])) != total(second, batch(*PAIRS["same"]))
    second.load_state_dict(first.state_dict())
    assert total(first, batch(*PAIRS["same"])) == total(second, batch(*PAIRS["same"]))


def test_models_without_a_class_token_that_attends_are_refused() -> None:
    vit, cnn = Shape("vit", 4, 4, heads=2), Shape("resnet", 4, 4)
    Attention.for_models(vit, [vit])
    with pytest.raises(UserError, match=r"^student: no class token attends to patches in the last block of resnet; "):
        Attention.for_models(cnn, [vit])
    with pytest.raises(UserError, match=r"^teacher: no class token attends .* such as tokens with terms: {map: 1\.0}"):
        Attention.for_models(vit, [cnn])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_cnn_ends_in_a_message(role: str, world: World, tmp_path: Path) -> None:
    vit = {"teacher": {"weights": str(world.vit)}} if role == "student" else {"student": tiny.NORMLESS}
    raw = world.distillation(tmp_path / "run", objective="attention", **vit)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    assert f"objective attention: {role}: no class token attends to patches in the last block of res" in done.stderr
