"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline: no test measures time. Derandomised: the same commit gives the same verdict.
settings.register_profile("ukd", deadline=None, derandomize=True)
settings.load_profile("ukd")
