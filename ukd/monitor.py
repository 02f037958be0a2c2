"""What is measured while a student trains: how many neighbours it shares with the teacher and, given labels, kNN."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ukd.backbones import Backbone, Teacher
from ukd.bank import Embeddings, embed
from ukd.data import Images
from ukd.eval import knn
from ukd.eval.labelled import LabelledSet
from ukd.eval.spaces import rankme
from ukd.neighbours import nearest_others, shared_share

RANKME_EPS = 1e-7
"""Added to each share of RankMe, as in its paper."""
COLLAPSED_RANK = 1.5
"""Features of a lower RankMe lie, for all their dimensions, on little more than one line."""
Neighbours = npt.NDArray[np.int32]


@dataclass
class Monitor:
    """Figures of a student on images that it is not trained on.

    Attributes:
        watched: Unlabelled images for the overlap with the teacher and for the rank; None leaves both out.
        labelled: Bank and queries of the kNN accuracy; None leaves it out.
        teacher: Whose neighbourhoods count; None when pretraining.
        k: Neighbours compared.
        size_px: Side of the evaluation view.
        crop_pct: Its centre crop.
        device: Where the student is.
        num_workers: Loader processes.
    """

    watched: Images | None
    labelled: tuple[LabelledSet, LabelledSet] | None
    teacher: Teacher | None
    k: int
    size_px: int
    crop_pct: float
    device: torch.device
    num_workers: int | None

    def __post_init__(self) -> None:
        self._of_teacher: Neighbours | None = None
        self._of_student: Neighbours | None = None
        self._noted: set[str] = set()

    @property
    def lists(self) -> tuple[Neighbours, Neighbours] | None:
        """The last measured neighbour lists of the held-out images: the teacher's and the student's, int32 [n, k]."""
        return None if self._of_teacher is None or self._of_student is None else (self._of_teacher, self._of_student)

    def measure(self, student: Backbone, note: Callable[[str], None] = warnings.warn) -> dict[str, float]:
        """Measures `knn_overlap` and `knn_top1`, each in [0, 1], and `rankme`, as far as the data allow.

        RankMe (Garrido et al., ICML 2023, arXiv:2210.02885) counts the dimensions that the features really use.

        Args:
            student: What is measured.
            note: Called once with a line about each image that cannot be read.
        """
        self._note = note
        figures: dict[str, float] = {}
        if self.watched is not None:
            features = self._embed(student, self.watched)
            if self.teacher is not None:
                figures["knn_overlap"] = self._overlap(features, self.teacher, self.watched)
            figures["rankme"] = self._rank(features)
        if self.labelled is not None:
            figures["knn_top1"] = self._accuracy(student, *self.labelled)
        return figures

    def _overlap(self, features: Embeddings, teacher: Teacher, watched: Images) -> float:
        k = min(self.k, len(watched) - 1)
        if self._of_teacher is None:
            self._of_teacher = nearest_others(self._embed(teacher, watched), k)
        self._of_student = nearest_others(features, k)
        return shared_share(self._of_teacher, self._of_student)

    def _rank(self, features: Embeddings) -> float:
        rank = rankme(features, RANKME_EPS)
        if rank < COLLAPSED_RANK:
            self._note_once(
                f"the features have collapsed: RankMe {rank:.2f} of {features.shape[1]} dimensions, so all images look "
                "alike to the model; a smaller optimizer.lr, a warm-up or larger batches may help"
            )
        return rank

    def _accuracy(self, student: Backbone, bank: LabelledSet, queries: LabelledSet) -> float:
        k = min(self.k, len(bank.images))
        rows = [self._embed(student, each.images) for each in (queries, bank)]
        vote = knn.Preset("monitor", "weighted", (k,), temp=0.07)
        return knn.evaluate(rows[0], queries.labels, rows[1], bank.labels, [vote]).rows[0].top1.value

    def _embed(self, backbone: Backbone, images: Images) -> Embeddings:
        return embed(
            backbone,
            images,
            size_px=self.size_px,
            crop_pct=self.crop_pct,
            device=self.device,
            num_workers=self.num_workers,
            on_unreadable=self._note_once,
        )

    def _note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            self._note(line)
