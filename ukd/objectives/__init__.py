"""The objectives by name. A new one is a file in this folder and a line in this table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from ukd.errors import UserError
from ukd.features import Shape
from ukd.objectives.attention import Attention
from ukd.objectives.base import Batch, Needs, Objective, WeightedSum
from ukd.objectives.bingo import BINGO
from ukd.objectives.byol import BYOL
from ukd.objectives.compress import CompRess
from ukd.objectives.cosine import Cosine
from ukd.objectives.coss import CoSS
from ukd.objectives.dino import DINO
from ukd.objectives.disco import DisCo
from ukd.objectives.gram import Gram
from ukd.objectives.hash import BRCD
from ukd.objectives.moco import MoCo
from ukd.objectives.multi import Multi
from ukd.objectives.regression import Regression
from ukd.objectives.rkd import RKD
from ukd.objectives.seed import SEED
from ukd.objectives.simclr import SimCLR
from ukd.objectives.smd import SMD
from ukd.objectives.sskd import SSKD
from ukd.objectives.tokens import Tokens
from ukd.objectives.transpose import Transpose, with_inner_options

__all__ = ["OBJECTIVES", "Batch", "Needs", "Objective", "WeightedSum", "build", "options_models"]

OBJECTIVES: dict[str, type[Objective]] = {
    "attention": Attention,
    "bingo": BINGO,
    "compress": CompRess,
    "coss": CoSS,
    "cosine": Cosine,
    "disco": DisCo,
    "gram": Gram,
    "hash": BRCD,
    "multi": Multi,
    "regression": Regression,
    "rkd": RKD,
    "seed": SEED,
    "smd": SMD,
    "sskd": SSKD,
    "tokens": Tokens,
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "dino": DINO,
    "transpose": Transpose,
}


class Summand(Protocol):
    """One objective of a recipe."""

    @property
    def name(self) -> str:
        """A key of OBJECTIVES."""

    @property
    def weight(self) -> float:
        """Its factor in the loss."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments of its constructor."""


def build(summands: Sequence[Summand], student: Shape, teachers: Sequence[Shape]) -> Objective:
    """The objective of a recipe: one alone if its weight is 1, else the weighted sum.

    Args:
        summands: At least one, with options that passed their `options_models`.
        student: What the student gives.
        teachers: What each teacher gives; empty if there is none.

    Raises:
        UserError: An objective cannot work with these models.
    """
    objectives = [(summand.name, summand.weight, _build_one(summand, student, teachers)) for summand in summands]
    _, weight, objective = objectives[0]
    return objective if len(objectives) == 1 and weight == 1 else WeightedSum(objectives)


def options_models() -> dict[str, type[BaseModel]]:
    """What a recipe may say of each objective: its constructor's keyword arguments, with types and ranges."""
    models = {name: _options_model(name, objective) for name, objective in OBJECTIVES.items()}
    return models | {"transpose": with_inner_options(models["transpose"], models)}


def _build_one(summand: Summand, student: Shape, teachers: Sequence[Shape]) -> Objective:
    objective = OBJECTIVES[summand.name]
    if objective.needs.teacher and not teachers:
        without = ", ".join(name for name, other in OBJECTIVES.items() if not other.needs.teacher)
        raise UserError(f"objective {summand.name} needs a teacher; without one, choose one of: {without}")
    try:
        return objective.for_models(student, teachers, **summand.options)
    except UserError as error:
        raise UserError(f"objective {summand.name}: {error}") from error


def _options_model(name: str, objective: type[Objective]) -> type[BaseModel]:
    types = get_type_hints(objective.__init__, include_extras=True)
    descriptions = _descriptions(objective)
    fields: dict[str, Any] = {
        option.name: (types[option.name], Field(option.default, description=descriptions.get(option.name)))
        for option in inspect.signature(objective).parameters.values()
        if option.kind is option.KEYWORD_ONLY
    }
    return create_model(
        f"{objective.__name__}Options",
        __config__=ConfigDict(frozen=True, extra="forbid", strict=True),
        __doc__=f"Options of the objective {name}.",
        **fields,
    )


def _descriptions(objective: type[Objective]) -> dict[str, str]:
    """The Args section of a Google-style docstring, by argument."""
    args = inspect.cleandoc(objective.__doc__ or "").partition("\nArgs:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", args, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
