"""Hypothesis profiles: `fast` always, `deep` on demand (`--hypothesis-profile=deep`)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("fast", max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "deep", max_examples=1_000_000, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
settings.load_profile("fast")
