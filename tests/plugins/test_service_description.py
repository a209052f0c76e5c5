"""The service API against its description: every endpoint, every documented status, the shape of every answer."""

from pathlib import Path

import pytest
from tools.show.app_api import LEFT_OUT, cells, everything
from tools.show.service_api import Description


def test_all_that_is_documented_is_as_documented(environments: Path):
    call = everything(environments)
    assert call.problems == []
    every = cells(call)
    assert [f"{one.name} {status}" for one, status, _, ok in every if not ok] == []
    assert len({one.name for one, _, _, _ in every}) == 82
    named = {(one.name, status) for one, status, _, _ in every}
    assert {key for key in LEFT_OUT if key[0] != "*"} <= named


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"id": "a"}, ".name lacks"),
        ({"id": 7, "name": "x", "type": "string", "count": 1}, ".id must be string"),
        ([], " must be an object"),
        ({"id": "a", "name": "x", "type": None, "count": True}, ".count must be integer"),
    ],
)
def test_what_differs_is_found(value: object, problem: str):
    description = Description()
    shape = description.shape_of(description.endpoints["POST /datasets/{dataset_id}/metadata"], 201)
    whole = description.shape_of(description.endpoints["GET /datasets/{dataset_id}/metadata"], 200)
    assert shape is not None
    assert whole is not None
    within = {"doc_metadata": [value], "built_in_field_enabled": False}
    found = list(description.problems(within, whole, may_be_null=False))
    assert any(one.endswith(problem) or f"{problem}" in one for one in found), found


def test_shapes_are_read_as_they_are_written():
    description = Description()
    events = description.shapes["FormInput"]
    assert set(events.fields) == {"type", "output_variable_name", "default"}
    listed = description.shape_of(description.endpoints["GET /datasets/tags"], 200)
    assert listed is not None
    assert (listed.kind, listed.of[0].fields["binding_count"][1]) == ("list", True)
