"""Tests for the service API against its description.

Every endpoint, every documented status, and the shape of every answer.
"""

from pathlib import Path

import pytest
from tools.show.app_api import EXCLUDED_STATUSES, call_everything, cells
from tools.show.service_api import Description

pytestmark = pytest.mark.proof("app-api")


def test_every_documented_answer_matches_its_description(environments: Path):
    call = call_everything(environments)
    assert call.problems == []
    all_cells = cells(call)
    assert [
        f"{endpoint.name} {status}" for endpoint, status, _, ok in all_cells if not ok
    ] == []
    assert len({endpoint.name for endpoint, _, _, _ in all_cells}) == 82
    checked_keys = {(endpoint.name, status) for endpoint, status, _, _ in all_cells}
    assert {key for key in EXCLUDED_STATUSES if key[0] != "*"} <= checked_keys


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"id": "a"}, ".name is missing"),
        ({"id": 7, "name": "x", "type": "string", "count": 1}, ".id must be string"),
        ([], " must be an object"),
        (
            {"id": "a", "name": "x", "type": None, "count": True},
            ".count must be integer",
        ),
    ],
)
def test_differences_from_the_description_are_found(value: object, problem: str):
    description = Description()
    shape = description.shape_of(
        description.endpoints["POST /datasets/{dataset_id}/metadata"], 201
    )
    list_shape = description.shape_of(
        description.endpoints["GET /datasets/{dataset_id}/metadata"], 200
    )
    assert shape is not None
    assert list_shape is not None
    document = {"doc_metadata": [value], "built_in_field_enabled": False}
    problems = list(description.problems(document, list_shape, may_be_null=False))
    assert any(
        found_problem.endswith(problem) or f"{problem}" in found_problem
        for found_problem in problems
    ), problems


def test_shapes_are_parsed_from_the_description():
    description = Description()
    events = description.shapes["FormInput"]
    assert set(events.fields) == {"type", "output_variable_name", "default"}
    listed = description.shape_of(description.endpoints["GET /datasets/tags"], 200)
    assert listed is not None
    assert (listed.kind, listed.of[0].fields["binding_count"][1]) == ("list", True)
