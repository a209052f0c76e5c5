"""Tests of the lines that errors about YAML files name."""

import pytest
import yaml

from modelyard.base.yaml_lines import line_of_mistake, unknown_field, yaml_lines

TEXT = """\
name: x
models:
  - plain
  - name: large
    quirks:
      drop: [a, b]
"""


def test_each_value_has_the_line_of_its_key():
    assert yaml_lines(TEXT) == {
        "$": 1,
        "$.name": 1,
        "$.models": 2,
        "$.models[0]": 3,
        "$.models[1]": 4,
        "$.models[1].name": 4,
        "$.models[1].quirks": 5,
        "$.models[1].quirks.drop": 6,
        "$.models[1].quirks.drop[0]": 6,
        "$.models[1].quirks.drop[1]": 6,
    }


def test_an_empty_document_has_no_lines():
    assert yaml_lines("") == yaml_lines("# nothing\n") == {}


def test_invalid_yaml_is_an_error():
    with pytest.raises(yaml.YAMLError):
        yaml_lines("a: [")


@pytest.mark.parametrize(
    ("path", "reason", "line"),
    [
        ("$.models[1].quirks.drop[1]", "Expected `str`", 6),
        ("$.models[1].quirks", "Object contains unknown field `drop`", 6),
        ("$.models[1].quirks.rename[...]", "Expected `str`", 5),
        ("$.models[1].missing.deeper", "Expected `str`", 4),
        ("$.absent", "Expected `str`", 1),
    ],
)
def test_a_mistake_has_the_line_of_the_value_or_its_closest_parent(
    path: str, reason: str, line: int
):
    assert line_of_mistake(yaml_lines(TEXT), path, reason) == line


def test_the_unknown_field_is_read_from_the_message():
    assert unknown_field("Object contains unknown field `dorp`") == "dorp"
    assert unknown_field("Expected `str`, got `int`") is None
