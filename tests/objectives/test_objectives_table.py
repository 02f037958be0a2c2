from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ukd.errors import UserError
from ukd.features import Features, Shape
from ukd.objectives import OBJECTIVES, Batch, Needs, WeightedSum, build, options_models
from ukd.objectives.base import BOTH, FIRST, NONE, CutMixed
from ukd.objectives.coss import CoSS

NARROW = Shape("narrow", pooled=6, tokens=6, heads=2, maskable=True)
WIDE = Shape("wide", pooled=10, tokens=10, heads=2)


@dataclass
class Summand:
    name: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


def view(dim: int) -> Features:
    """All that a small ViT can give."""
    attention, mask = torch.randn(8, 2, 5).softmax(-1), torch.rand(8, 4) < 0.5
    return Features(torch.randn(8, dim), torch.randn(8, 4, dim), (2, 2), attention, mask=mask)


def batch(needs: Needs) -> Batch:
    """Random features of no views but those that are needed."""
    return Batch(
        student={number: view(6) for number in needs.student_views},
        teacher={number: view(10) for number in needs.teacher_views},
        index=torch.arange(8),
        ema={number: view(6) for number in needs.ema_views},
        rotated=Batch({turns: view(6) for turns in range(3)}, {turns: view(10) for turns in range(3)}, torch.arange(8)),
        masked=view(6),
        cutmix=CutMixed(Features(torch.randn(4, 6)), 0.5),
        bag_size=2,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_works_with_its_defaults(name: str) -> None:
    objective = build([Summand(name)], NARROW, [WIDE])
    assert type(objective) is OBJECTIVES[name]
    terms = objective(batch(objective.needs))
    assert terms and all(term.shape == () and term.isfinite() for term in terms.values())
    assert all("/" not in term for term in terms)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_option_has_a_default_and_a_description(name: str) -> None:
    model = options_models()[name]
    model()
    for option, info in model.model_fields.items():
        assert info.description, f"{name}: {option} is missing in the Args of the class docstring"


def test_options_are_strict() -> None:
    models = options_models()
    assert models["coss"](lam=0, scale=142.9).model_dump() == {"lam": 0, "scale": 142.9, "hidden_dim": 2048}
    for name, options in [
        ("coss", {"lamb": 1.0}),
        ("coss", {"lam": -1.0}),
        ("coss", {"scale": "70"}),
        ("coss", {"hidden_dim": 2048.0}),
        ("cosine", {"head": "mlp3"}),
        ("simclr", {"temp": 0}),
    ]:
        with pytest.raises(ValidationError):
            models[name](**options)


def test_options_reach_the_objective() -> None:
    objective = build([Summand("coss", options={"lam": 0.5, "hidden_dim": 7})], NARROW, [WIDE])
    assert isinstance(objective, CoSS)
    assert objective.lam == 0.5 and objective.scale == 70 and objective.head[0].out_features == 7


def test_weighted_sum() -> None:
    torch.manual_seed(0)
    features = batch(Needs())
    summands = [Summand("coss", 2.0), Summand("cosine", 0.5), Summand("coss", 1.0, {"lam": 0.0})]
    total = build(summands, NARROW, [WIDE])
    assert isinstance(total, WeightedSum)
    found = total(features)
    assert list(found) == ["coss/feature", "coss/space", "cosine/cosine", "coss_2/feature", "coss_2/space"]
    coss, cosine, other = total.objectives.values()
    assert found["coss/space"] == 2 * coss(features)["space"]
    assert found["cosine/cosine"] == 0.5 * cosine(features)["cosine"]
    assert found["coss_2/feature"] == other(features)["feature"]
    again = build(summands, NARROW, [WIDE])
    again.load_state_dict(total.state_dict())
    total.eval(), again.eval()
    assert again(features) == total(features)


def test_one_objective_with_a_weight_is_a_weighted_sum() -> None:
    total = build([Summand("coss", 0.1)], NARROW, [NARROW])
    features = Batch({0: Features(torch.randn(4, 6))}, {0: Features(torch.randn(4, 6))}, torch.arange(4))
    assert total(features)["coss/feature"] == 0.1 * CoSS(6, 6)(features)["feature"]


def test_the_mean_cosine_can_be_read_off_the_terms() -> None:
    student, teacher = torch.randn(2, 8, 6)
    features = Batch({0: Features(student), 1: Features(student)}, {0: Features(teacher)}, torch.arange(8))
    expected = torch.cosine_similarity(student, teacher).mean()
    coss, cosine = Summand("coss", 2.0, {"scale": 5.0}), Summand("cosine", 0.5, {"head": "none"})
    summands = [Summand("simclr"), coss, cosine]
    for chosen in (summands[1:2], summands[2:], summands):
        objective = build(chosen, NARROW, [NARROW])
        torch.testing.assert_close(objective.teacher_cosine(objective(features)), expected)
    without = build(summands[:1], NARROW, [])
    assert without.teacher_cosine(without(features)) is None


def test_needs_of_a_sum_serve_all() -> None:
    assert build([Summand("simclr")], NARROW, []).needs == Needs(BOTH, NONE, batch_coupled=True)
    assert build([Summand("cosine", 2.0)], NARROW, [WIDE]).needs == Needs()
    both = build([Summand("cosine"), Summand("simclr")], NARROW, [WIDE])
    assert both.needs == Needs(BOTH, FIRST, batch_coupled=True)


def test_impossible_objectives_say_which_and_what_to_change() -> None:
    with pytest.raises(UserError, match=r"^objective cosine: head: none needs equal widths"):
        build([Summand("coss"), Summand("cosine", options={"head": "none"})], NARROW, [WIDE])
    with pytest.raises(
        UserError, match=r"^objective coss needs a teacher; .* choose one of: simclr, moco, byol, dino$"
    ):
        build([Summand("coss")], NARROW, [])


def test_the_table_does_not_import_lightly() -> None:
    code = "import sys, ukd.objectives as o; o.options_models(); sys.exit('lightly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
