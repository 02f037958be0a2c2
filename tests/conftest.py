"""Settings of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny import World

# No deadline: no test measures time. Derandomised: the same commit gives the same verdict.
settings.register_profile("ukd", deadline=None, derandomize=True)
settings.load_profile("ukd")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Images, a teacher and recipes, all tiny; tests leave it as it is."""
    import torch

    from tests.tiny import make_world

    torch.set_num_threads(1)  # Small tensors gain nothing from threads, and wait for them where the cores are busy.
    return make_world(tmp_path_factory.mktemp("world"))
