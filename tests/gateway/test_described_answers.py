"""The answers to generated requests are as the published description says, by
schemathesis."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.gateway.conftest import Running

pytestmark = pytest.mark.proof("comply")

DESCRIPTIONS = Path(__file__).parents[2] / "docs/reference/openapi"
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS: list[Any] = [not_a_server_error, response_schema_conformance]
# Without a database and a deadline, the seed alone decides what is generated.
GENERATION = settings(
    max_examples=10,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("api", ["openai", "anthropic", "google", "cohere"])
def test_answers_are_as_described(api: str, start_gateway: Callable[..., Running]):
    description: Any = schemathesis.openapi.from_path(DESCRIPTIONS / f"{api}.json")
    running = start_gateway()
    problems: list[str] = []

    def check(case: Any) -> None:
        """Send a generated request and compare its answer with the description."""
        answer = case.call(base_url=running.origin)
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                problems.append(f"{case.method} {case.path}: {failure!r}")

    for result in description.get_all_operations():
        for mode in MODES:
            strategy: Any = result.ok().as_strategy(generation_mode=mode)
            seed(1)(GENERATION(given(strategy)(check)))()
    assert problems == []
