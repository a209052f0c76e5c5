"""The proofs at full size, as tests: `pytest -m proof --full`.

Without `--full` these tests are left out, because some of them run for half an hour.
`make show WHAT=name` runs a single one and prints its table.
"""

from importlib import import_module

import pytest
from tools.show.__main__ import PROOFS

HOURS = 3600


def _full_proof(name: str) -> object:
    marks = [pytest.mark.proof(name), pytest.mark.full, pytest.mark.timeout(3 * HOURS)]
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_full_proof(name) for name in PROOFS])
def test_the_goal_holds_at_full_size(name: str):
    module = import_module(f"tools.show.{name.replace('-', '_')}")
    proof = module.prove()
    assert proof.ok, "\n".join(proof.table())
