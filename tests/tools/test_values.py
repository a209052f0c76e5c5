"""Tests for tool arguments as models write them, arithmetic, and functions as tools."""

import asyncio
import json
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.tools.calculator import calculate
from modelyard.tools.entities import (
    ToolContext,
    ToolInvokeError,
    ToolNotFoundError,
    ToolParameter,
    ToolParameterError,
)
from modelyard.tools.function import FunctionTool, tool
from modelyard.tools.manager import ToolManager, ToolRef, Tools
from modelyard.tools.observation import ToolOutputCollector, truncate_middle
from modelyard.tools.values import (
    cast_all,
    coerce_arguments,
    coerce_value,
    read_arguments,
)

ONE = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


@pytest.mark.parametrize(
    ("arguments_text", "read"),
    [
        ('{"q": "x"}', {"q": "x"}), ("", {}), ("x", {"q": "x"}), ('"x"', {"q": "x"}), ('[{"q": "x"}]', {"q": "x"}),
        ('```json\n{"q": "x"}\n```', {"q": "x"}), ('{"q": "x"', {"q": "x"}), ("{'q': 'x'}", {"q": "x"}),
        ('"{\\"q\\": \\"x\\"}"', {"q": "x"}), ("7", {"q": 7}), ("null", {}), ('{"q": "a\nb"}', {"q": "a\nb"}),
    ],
)  # fmt: skip
def test_arguments_as_models_write_them(arguments_text: str, read: dict[str, Any]):
    assert read_arguments(arguments_text, ONE) == read


def test_unreadable_arguments():
    with pytest.raises(
        ToolParameterError, match="must be a JSON object with the parameters a, b"
    ):
        read_arguments("[1, 2]", {"type": "object", "properties": {"a": {}, "b": {}}})
    with pytest.raises(ToolParameterError, match="Arguments too long"):
        read_arguments("x" * (2 << 20), ONE)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.integers() | st.text() | st.booleans(),
        max_size=5,
    )
)
def test_valid_json_is_read_unchanged(value: dict[str, Any]):
    assert read_arguments(json.dumps(value), {"type": "object"}) == value


@given(st.text(max_size=200))
def test_any_arguments_are_read_or_refused(text: str):
    with suppress(ToolParameterError):
        assert isinstance(read_arguments(text, ONE), dict)


@pytest.mark.parametrize(
    ("value", "rule", "cast"),
    [
        ("3", {"type": "integer"}, 3), ("3.0", {"type": "integer"}, 3), (3.0, {"type": "integer"}, 3),
        ("3.5", {"type": "integer"}, "3.5"), ("x", {"type": "number"}, "x"), ("yes", {"type": "boolean"}, True),
        (0, {"type": "boolean"}, False), (5, {"type": "string"}, "5"), (True, {"type": "string"}, "true"),
        ({"a": 1}, {"type": "string"}, '{"a": 1}'), ("[1]", {"type": "array"}, [1]), ("a", {"type": "array"}, ["a"]),
        (["1"], {"type": "array", "items": {"type": "integer"}}, [1]), (None, {"type": ["string", "null"]}, None),
        ({"n": "1"}, {"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": 1}),
    ],
)  # fmt: skip
def test_values_are_converted_without_loss(value: Any, rule: dict[str, Any], cast: Any):
    assert coerce_value(value, rule) == cast


def test_unknown_names_and_invalid_values():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 4, "maximum": 9}},
        "required": [],
    }
    assert coerce_arguments({"other": 1}, schema) == {}
    with pytest.raises(
        ToolParameterError, match="'n': 12 is greater than the maximum of 9"
    ):
        coerce_arguments({"n": "12"}, schema)
    assert coerce_arguments(
        {"any": 1}, {"type": "object", "additionalProperties": True}
    ) == {"any": 1}
    remote = {
        "type": "object",
        "properties": {"x": {"$ref": "http://127.0.0.1:9/never"}},
    }
    # the reference is not fetched
    assert coerce_arguments({"x": 1}, remote) == {"x": 1}


def test_a_form_is_converted_to_its_parameter_types():
    parameters = [
        ToolParameter(name="n", type="number", min=1, max=5), ToolParameter(name="b", type="boolean"),
        ToolParameter(name="s", type="string", required=True), ToolParameter(name="d", default="x"),
    ]  # fmt: skip
    assert cast_all(parameters, {"n": "2", "b": "y", "s": 5, "z": 1}) == {
        "n": 2,
        "b": True,
        "s": "5",
        "d": "x",
        "z": 1,
    }
    with pytest.raises(
        ToolParameterError, match="tool parameter s not found in tool config"
    ):
        cast_all(parameters, {})
    with pytest.raises(ToolParameterError, match="between 1 and 5"):
        cast_all(parameters, {"s": "", "n": 9} | {"s": "x"})


@pytest.mark.parametrize(
    ("limits", "value", "reason"),
    [
        ({"min": 2.0}, 1, "at least 2"),
        ({"max": 5.0}, 6, "at most 5"),
        ({"min": 2.0, "max": 5.0}, 6, "between 2.0 and 5.0"),
    ],
)
def test_a_limit_that_a_parameter_does_not_have_is_not_named(
    limits: dict[str, float], value: int, reason: str
):
    parameter = ToolParameter(name="size", type="number", **limits)
    with pytest.raises(ToolParameterError, match=f"must be {reason}") as caught:
        cast_all([parameter], {"size": value})
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+2", "4"), ("0.1+0.2", "0.3"), ("15% * 80", "12"), ("2^10", "1024"), ("1/3", "0.333333333333333"),
        ("1,234*2", "2468"), ("10 % 3", "1"), ("sqrt(16)", "4"), ("3 > 2", "true"), ("max(1, 2, 3)", "3"),
        ("(19.99 * 3) * (1 - 15%)", "50.9745"), ("factorial(20)", "2432902008176640000"), ("-2.50", "-2.5"),
        ("7 × 6 ÷ 2", "21"),
    ],
)  # fmt: skip
def test_arithmetic(expression: str, value: str):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "().__class__",
        "9**9**9",
        "1/0",
        "x",
        "",
        "2+",
        "'a'*9",
        "factorial(9999)",
        "[1]*9",
        "(" * 500,
    ],
)
def test_invalid_arithmetic(expression: str):
    with pytest.raises(ToolParameterError):
        calculate(expression)


def test_a_function_is_described_by_its_signature():
    @tool(needs_approval=True)
    def book(
        city: str,
        nights: int = 1,
        kind: Literal["a", "b"] = "a",
        note: str | None = None,
    ) -> str:
        """Book a room.

        city: where to
        """
        return f"{city} {nights} {kind} {note}"

    assert (book.name, book.entity.description, book.entity.needs_approval) == (
        "book",
        "Book a room.",
        True,
    )
    properties = book.schema["properties"]
    assert properties["city"] == {"type": "string", "description": "where to"}
    assert properties["kind"]["enum"] == ["a", "b"]
    assert properties["note"] == {"type": "string"}
    assert book.schema["required"] == ["city"]
    assert book("x") == "x 1 a None"


def test_functions_that_cannot_be_tools_are_refused():
    def spread(*args: int) -> int:
        return 0

    def odd(value: complex) -> int:
        return 0

    with pytest.raises(TypeError, match="named parameters"):
        FunctionTool(spread)
    with pytest.raises(TypeError, match="cannot be expressed in JSON"):
        FunctionTool(odd)


def test_tools_are_found_bound_and_cached():
    calls: list[str] = []

    @tool(cache_seconds=60.0)
    async def look(q: str, context: ToolContext, where: str = "here") -> str:
        """Looks."""
        calls.append(q)
        return f"{q} {where} {context.tenant}"

    manager = ToolManager()
    manager.functions.add(look)
    manager.add_source("builtin", Tools({"far": [look]}))

    async def go() -> list[str]:
        assert (await manager.get_by_name("t", "far/look")).name == "look"
        with pytest.raises(ToolNotFoundError, match="did you mean 'look'"):
            await manager.get_by_name("t", "lok")
        ref = ToolRef(
            provider="far", name="look", settings={"where": "there"}, alias="find"
        )
        bound = await manager.bind_tool("t", ref)
        assert bound.name == "find"
        assert list(bound.schema["properties"]) == ["q"]
        context = ToolContext(tenant="t")
        texts = [
            (
                await manager.observe(
                    bound, "find", '{"q": "x", "where": "elsewhere"}', context
                )
            ).text
            for _ in range(2)
        ]
        other_observation = await manager.observe(
            bound, "find", '{"q": "x"}', ToolContext(tenant="u")
        )
        return [*texts, other_observation.text]

    assert asyncio.run(go()) == ["x there t", "x there t", "x there u"]
    # The second answer came from the cache; another tenant has its own.
    assert calls == [
        "x",
        "x",
    ]


def test_observations_collect_any_message():
    collector = ToolOutputCollector()
    for message in (
        {"type": "text", "message": {"text": "a"}}, {"type": "json", "message": {"json_object": {"x": 1}}},
        {"type": "blob_chunk", "message": {"id": "1", "blob": b"ab"}},
        {"type": "blob_chunk", "message": {"id": "1", "blob": "Y2Q=", "end": True}, "meta": {"mime_type": "text/x"}},
        {"type": "variable", "message": {"variable_name": "v", "variable_value": "1", "stream": True}},
        {"type": "variable", "message": {"variable_name": "v", "variable_value": "2", "stream": True}},
        {"type": "blob", "message": {"blob": "!!not base64"}}, {"type": "what"}, {},
    ):  # fmt: skip
        collector.add(message)
    assert collector.blobs[0].data == b"abcd"
    assert collector.variables == {"v": "12"}
    assert '{"x": 1}' in collector.text
    assert truncate_middle("x" * 100, 40, result_id="r1").count("x") == 40


def test_any_exception_of_a_tool_is_a_tool_error():
    @tool
    async def odd() -> None:
        raise KeyError("k")

    async def go() -> None:
        async for _ in ToolManager().invoke(odd, {}, ToolContext()):
            pass

    with pytest.raises(ToolInvokeError, match="KeyError"):
        asyncio.run(go())
