"""Any comparison of images made one of dimensions: the rows of a row loss are the columns of the batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import torch
from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, create_model
from torch import Tensor

from ukd.distributed import gather_rows_with_grad, own_rows, world_size
from ukd.errors import UserError
from ukd.features import Features
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.cosine import Cosine
from ukd.objectives.gram import Gram
from ukd.objectives.heads import Projector, projector
from ukd.objectives.regression import Regression
from ukd.objectives.rkd import RKD
from ukd.objectives.smd import SMD
from ukd.projection import Projection

RowLoss = Literal["cosine", "regression", "gram", "rkd", "smd"]
ROW_LOSSES: dict[RowLoss, type[Objective]] = {
    "cosine": Cosine,
    "regression": Regression,
    "gram": Gram,
    "rkd": RKD,
    "smd": SMD,
}
OF_WIDTHS = {"head", "hidden_dim", "norm", "target"}
"""Options that speak of the width of a row, which after transposing is the number of images."""


class Transpose(Objective):
    """An objective with dimensions in the place of images: its "space" version.

    With the teacher's pooled features T [n, D], the student's after the head S [n, D], and the loss L of the objective
    `of` without a head of its own:

        loss = L(S^T, T^T) + row_weight * L(S, T)

    The space similarity of CoSS (Singh & Wang, ECCV 2024, arXiv:2409.13939) is that of `cosine`, and `row_weight: 1`
    makes it CoSS but for its scale and for dimensions in which the teacher is 0, which CoSS leaves out; its released
    code's `dinoss` is that of `regression` under `metric: softmax` with `row_weight: 2`, times 1/2. The n images are
    those of all processes, each of which takes an equal share of the D dimensions, so any number of them that divides D
    gives the same gradient. Objectives with a queue compare with images that no batch holds, so they have no such
    version.

    Args:
        of: The objective.
        options: Options of that objective, but for its head and what becomes of its target.
        head: The projector; `none` needs equal widths.
        hidden_dim: Width of the hidden layer of `mlp2`.
        row_weight: Weight of the objective as it is, of the same student's feature after the same head.
    """

    needs = Needs(batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        of: RowLoss = "cosine",
        options: dict[str, Any] | None = None,
        head: Projector = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        row_weight: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        if teacher_dim % world_size():
            raise UserError(
                f"the teacher's {teacher_dim} dimensions cannot be shared equally by {world_size()} processes; "
                "choose a number of processes that divides them"
            )
        self.row_weight = row_weight
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.columns = _headless(of, options or {})
        self.rows = _headless(of, options or {}) if row_weight else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the objective of the columns, after `column_`, and of the rows, after `row_`."""
        student, teacher = self.head(batch.student[0].pooled), batch.teacher[0].pooled.detach()
        columns = self.columns(_batch(own_columns(student), own_columns(teacher), batch.progress))
        terms = {f"column_{name}": value for name, value in columns.items()}
        if self.rows is not None:
            rows = self.rows(_batch(student, teacher, batch.progress))
            terms |= {f"row_{name}": self.row_weight * value for name, value in rows.items()}
        return terms

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """That of the rows."""
        if self.rows is None:
            return None
        of_rows = {name: value for name, value in terms.items() if name.startswith("row_")}
        return self.rows.teacher_cosine(
            {name.removeprefix("row_"): value / self.row_weight for name, value in of_rows.items()}
        )


def own_columns(features: Tensor) -> Tensor:
    """This process's share of the dimensions, each over the images of all processes.

    Args:
        features: [B, D], this process's, where the number of processes divides D.

    Returns:
        [D / processes, n] for n images in all processes.
    """
    share = own_rows(features.shape[1] // world_size())
    return gather_rows_with_grad(features)[:, share].T


def with_inner_options(model: type[BaseModel], inner: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    """The options of `transpose`, of which `options` are checked as those of the objective that `of` names.

    Args:
        model: As the constructor's signature gives it.
        inner: Options of at least every objective in ROW_LOSSES.
    """
    models: dict[str, type[BaseModel]] = {of: _without_widths(inner[of]) for of in ROW_LOSSES}
    named = {of: _under_its_name(chosen) for of, chosen in models.items()}

    def checked(given: Any, info: ValidationInfo) -> Any:
        if "of" not in info.data:
            return models["cosine"]()  # Another complaint says what is wrong with `of`.
        of = info.data["of"]
        name = models[of].__name__
        return getattr(named[of].model_validate({name: given}), name)

    union: Any = Annotated[Union[tuple(models.values())], BeforeValidator(checked)]  # noqa: UP007
    described = model.model_fields["options"].description
    options: Any = (union, Field({}, validate_default=True, description=described))
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, options=options)


def _without_widths(model: type[BaseModel]) -> type[BaseModel]:
    fields: Any = {name: (info.annotation, info) for name, info in model.model_fields.items() if name not in OF_WIDTHS}
    return create_model(model.__name__, __config__=model.model_config, __doc__=model.__doc__, **fields)


def _under_its_name(model: type[BaseModel]) -> type[BaseModel]:
    """A model whose only field is another one, so that complaints name that one, as they name a member of a union."""
    field: Any = {model.__name__: (model, ...)}
    return create_model("Chosen", **field)


def _headless(of: RowLoss, options: Mapping[str, Any]) -> Objective:
    """An objective of rows of any equal width."""
    objective = ROW_LOSSES[of]
    without = {"head": "none"} if "head" in inspect.signature(objective).parameters else {}
    return objective(1, 1, **options, **without)


def _batch(student: Tensor, teacher: Tensor, progress: float) -> Batch:
    index = torch.arange(len(student), device=student.device)
    return Batch({0: Features(student)}, {0: Features(teacher)}, index, progress=progress)
