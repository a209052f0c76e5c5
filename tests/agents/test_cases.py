"""One case per behaviour, each with replies as a whole, by word, and by character."""

from typing import Any

import pytest

from modelyard.testing.agents import Cut
from tests.agents.running import CUTS, case_mismatches, cases

pytestmark = pytest.mark.proof("agent-cases")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in cases()]
)
def test_case(case: dict[str, Any], cut: Cut):
    assert case_mismatches(case, cut) == []
