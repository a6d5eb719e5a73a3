"""Runs a state machine of Hypothesis against a real server."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


def run_machine(machine: Any, client: Any, *, examples: int, steps: int) -> None:
    """Raises what the shortest order of events raises that breaks a rule of ``machine``."""
    machine.client = client
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )
