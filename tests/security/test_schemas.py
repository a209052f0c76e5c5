"""Tests for JSON schemas from users: no fetching, bounded work, clear errors."""

import ast
import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.schemas import SchemaError, TooMuchWorkError, compile_schema
from modelyard.tools.entities import ToolParameterError
from modelyard.tools.values import coerce_arguments, coerce_arguments_async
from modelyard.workflow.nodes.start import FormField, InputError, validate_inputs

SOURCE = Path(__file__).parents[2] / "src/modelyard"


def doubling(times: int) -> dict[str, Any]:
    steps = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2}
        for level in range(times)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**steps, f"a{times}": {"type": "string"}}}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


TREE = {
    "anyOf": [
        {"items": {"$ref": "#"}, "minItems": 1},
        {"items": {"$ref": "#"}, "minItems": 1},
        {"type": "null"},
    ]
}
AB = "".join(random.Random(3).choices("ab", k=60_000))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x", "file:///etc/passwd", "other.json", "urn:x"]
)
@pytest.mark.parametrize(
    "wrap_schema",
    [
        lambda ref: ref,
        lambda ref: {"properties": {"a": ref}},
        lambda ref: {"$defs": {"a": ref}},
    ],
)
def test_nothing_is_fetched(address: str, wrap_schema: Any):
    with pytest.raises(SchemaError, match="External \\$ref"):
        compile_schema(wrap_schema({"$ref": address}))


@pytest.mark.parametrize(("schema", "value"), [
    (doubling(40), "x"), (TREE, deep(60)), ({"items": {"$ref": "#"}}, deep(100_000)),
    ({"pattern": "[ab]*a[ab]{900}c"}, AB), ({"items": {"allOf": [{"type": "integer"}] * 5000}}, list(range(20_000))),
    ({"items": {"enum": list(range(20_000))}}, [1.5] * 20_000),
    ({"patternProperties": {f"^{index}[ab]*a[ab]{{40}}$": {} for index in range(100)}}, {AB[:9000] + str(index): 1 for index in range(9)}),
])  # fmt: skip
def test_exponential_schemas_are_refused(schema: Any, value: Any):
    with pytest.raises(TooMuchWorkError):
        compile_schema(schema).mismatch(value)


@pytest.mark.parametrize("schema", [
    {"type": "strng"}, {"pattern": "("}, {"pattern": "((a{1000}){1000}){1000}"}, deep(100_000),
    {"$dynamicRef": "#a"}, {"$ref": "#/nowhere"}, [1], "x", {"enum": ["x" * 300_000]},
    {"allOf": [{"pattern": f"a{{{index}}}"} for index in range(300)]},
])  # fmt: skip
def test_an_invalid_schema_is_an_error(schema: Any):
    with pytest.raises(SchemaError):
        compile_schema(schema)


PASSWORD = {"pattern": r"^(?=.*\d)(?=.*[a-z]).{8,}$"}


def test_lookaround_and_references_are_matched_within_bounds():
    assert compile_schema(PASSWORD).mismatch("abcdefg1") is None
    assert compile_schema(PASSWORD).mismatch("abcdefgh") is not None
    assert compile_schema({"pattern": r"^(a+)b\1$"}).mismatch("aabaa") is None
    assert (
        compile_schema({"pattern": r"^(?=.*x)(a+)+$"}).mismatch("a" * 50 + "!x")
        is not None
    )
    mismatch = compile_schema({"pattern": r"(?=.*z)y"}).mismatch("a" * 5_000)
    assert mismatch is not None
    assert "backtracking" in mismatch.message
    with pytest.raises(TooMuchWorkError):
        compile_schema({"pattern": r"(?=.*z)y"}).mismatch("a" * 60_000)


def test_large_values_are_validated_off_the_event_loop():
    schema = {"properties": {"a": {"items": {"type": "integer", "minimum": 0}}}}
    form = [FormField(variable="v", type="json_object", json_schema=schema)]
    fine, invalid_inputs = (
        {"v": {"a": [1] * 60_000}},
        {"v": {"a": [1] * 59_999 + ["x"]}},
    )
    assert validate_inputs(form, fine)["v"] == fine["v"]
    with pytest.raises(InputError, match="does not match"):
        validate_inputs(form, invalid_inputs)

    async def on_the_loop() -> None:
        with pytest.raises(InputError, match="Too many"):
            validate_inputs(form, fine)
        tool = {"properties": {"a": {"items": {"type": "integer"}, "type": "array"}}}
        assert await coerce_arguments_async(fine["v"], tool) == fine["v"]
        with pytest.raises(ToolParameterError, match="integer"):
            await coerce_arguments_async({"a": [1] * 59_999 + [{}]}, tool)

    asyncio.run(on_the_loop())


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_circular_references_are_an_error(schema: Any):
    with pytest.raises(SchemaError, match="Circular"):
        compile_schema(schema).mismatch(1)


def test_common_schemas_work():
    schema = {"type": "object", "required": ["b"], "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/n"}},
              "$ref": {"type": "string"}}, "$defs": {"n": {"type": "integer", "pattern": "^x"}}}  # fmt: skip
    assert compile_schema(schema).mismatch({"a": [1, 2], "b": 1, "$ref": "x"}) is None
    mismatch = compile_schema(schema).mismatch({"a": [1, "y"], "b": 1})
    assert mismatch is not None
    assert mismatch.path == ("a", 1)
    assert "is not of type" in mismatch.message or "does not match" in mismatch.message
    assert compile_schema({"type": "integer"}).mismatch(10**400) is None
    assert compile_schema(doubling(8)).mismatch("x") is None
    assert (
        asyncio.run(compile_schema({"items": {"$ref": "#"}}).mismatch_async(deep(150)))
        is None
    )


def test_lenient_compilation_ignores_unsupported_patterns():
    assert (
        compile_schema(
            {"pattern": "^(?=a)b", "type": "string"}, is_lenient=True
        ).mismatch("c")
        is None
    )


@pytest.mark.parametrize(("schema", "value", "expected_message"), [
    ({"$ref": "http://127.0.0.1:9/x"}, {}, "is invalid"),
    ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 41 + "!"}, "does not match"),
    (doubling(40), {}, "cannot be validated"),
    ("[" * 100_000, {}, "is not valid JSON"),
])  # fmt: skip
def test_a_start_form_refuses(schema: Any, value: Any, expected_message: str):
    form = [FormField(variable="v", type="json_object", json_schema=schema)]
    with pytest.raises(InputError, match=expected_message):
        validate_inputs(form, {"v": value})


def test_a_start_form_refuses_deep_json():
    with pytest.raises(InputError):
        validate_inputs(
            [FormField(variable="v", type="json_object")],
            {"v": '{"a":' + "[" * 100_000},
        )


def test_a_tool_refuses_arguments_that_cannot_be_held_to_its_schema():
    schema = {"type": "object", "properties": {"a": {"pattern": "[ab]*a[ab]{900}c"}}}
    with pytest.raises(ToolParameterError, match="Too much work"):
        coerce_arguments({"a": AB}, schema)


def test_schemas_are_compiled_in_one_module():
    for path in SOURCE.rglob("*.py"):
        packages = _imported_packages(path)
        if packages & {"jsonschema", "jsonschema_rs"}:
            assert path == SOURCE / "base/schemas.py"
        if "json_repair" in packages:
            assert path == SOURCE / "base/json_repair.py"


def _imported_packages(path: Path) -> set[str]:
    """Return the top-level packages that a module imports, if it names any of the
    packages for schemas."""
    names: list[str] = []
    source = path.read_text("utf-8")
    # Most modules name none of the packages, and need not be parsed.
    is_relevant = "jsonschema" in source or "json_repair" in source
    for node in ast.walk(ast.parse(source)) if is_relevant else ():
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}
