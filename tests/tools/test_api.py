"""Tests for OpenAPI and Swagger descriptions as tools.

Every parameter location, every authentication method, every kind of answer.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from modelyard.tools.api import ApiTool, Auth, Tokens
from modelyard.tools.entities import ToolContext
from modelyard.tools.manager import Observation, ToolManager
from modelyard.tools.openapi import (
    Api,
    DescriptionError,
    Operation,
    manifest_url,
    parse,
)
from modelyard.transport.egress import EgressClient, EgressRules
from tests.tools.serving import echo

pytestmark = pytest.mark.proof("openapi")


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with echo() as server:
        yield f"127.0.0.1:{server.server_port}"


def openapi_description(origin: str, **operations: Any) -> str:
    """Return a description with one operation per path, by name."""
    return yaml.dump({
        "openapi": "3.1.0", "info": {"title": "Echo", "version": "1"}, "servers": [{"url": f"http://{origin}/api"}],
        "paths": {operation.pop("path", f"/{name}"): {operation.pop("method", "get"): {"operationId": name, **operation}}
                  for name, operation in operations.items()},
    })  # fmt: skip


def call(
    api: Api,
    name: str,
    arguments: dict[str, Any],
    origin: str,
    auth: Auth | None = None,
    times: int = 1,
) -> Observation:
    async def go() -> Observation:
        egress = EgressClient(EgressRules(private=frozenset({origin})))
        try:
            operation = next(
                candidate for candidate in api.operations if candidate.name == name
            )
            tokens = Tokens(egress)
            api_tool = ApiTool(
                operation, provider="echo", server=api.server, auth=auth or Auth(), egress=egress, tokens=tokens,
                tenant="default",
            )  # fmt: skip
            for _ in range(times):
                observation = await ToolManager().observe(
                    api_tool, name, json.dumps(arguments), ToolContext(key="run/1")
                )
            return observation
        finally:
            await egress.aclose()

    return asyncio.run(go())


def echoed_request(observation: Observation) -> dict[str, Any]:
    assert not observation.error, observation.text
    return observation.gathered.values[0]


def parameter(
    name: str, where: str, schema: dict[str, Any], **extra: Any
) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": schema, **extra}


ARRAY, OBJECT = {"type": "array", "items": {"type": "string"}}, {"type": "object"}
PLACES: dict[str, tuple[dict[str, Any], Any, str, Any]] = {
    "path": (parameter("x", "path", {"type": "string"}, required=True), "a b/c", "path", "/api/thing/a%20b%2Fc"),
    "path list": (parameter("x", "path", ARRAY, required=True), ["a", "b"], "path", "/api/thing/a,b"),
    "query": (parameter("x", "query", {"type": "integer"}), 7, "query", [["x", "7"]]),
    "query boolean": (parameter("x", "query", {"type": "boolean"}), True, "query", [["x", "true"]]),
    "query list": (parameter("x", "query", ARRAY), ["a", "b"], "query", [["x", "a"], ["x", "b"]]),
    "query list in one": (parameter("x", "query", ARRAY, explode=False), ["a", "b"], "query", [["x", "a,b"]]),
    "query by spaces": (parameter("x", "query", ARRAY, style="spaceDelimited", explode=False), ["a", "b"], "query", [["x", "a b"]]),
    "query by pipes": (parameter("x", "query", ARRAY, style="pipeDelimited", explode=False), ["a", "b"], "query", [["x", "a|b"]]),
    "query object": (parameter("x", "query", OBJECT), {"a": 1}, "query", [["a", "1"]]),
    "query deep object": (parameter("x", "query", OBJECT, style="deepObject"), {"a": 1}, "query", [["x[a]", "1"]]),
    "query as JSON": ({"name": "x", "in": "query", "content": {"application/json": {"schema": OBJECT}}}, {"a": 1}, "query", [["x", '{"a": 1}']]),
    "header": (parameter("X-Thing", "header", {"type": "string"}), "h", "headers.x-thing", "h"),
    "cookie": (parameter("session", "cookie", {"type": "string"}), "c d", "headers.cookie", "session=c%20d"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_parameters_are_sent_in_their_locations(name: str, origin: str):
    declared_parameter, value, where, expected = PLACES[name]
    api = parse(
        openapi_description(
            origin,
            op={
                "path": "/thing/{x}"
                if declared_parameter["in"] == "path"
                else "/thing",
                "parameters": [declared_parameter],
            },
        )
    )
    received = echoed_request(
        call(api, "op", {next(iter(api.operations[0].places)): value}, origin)
    )
    for step in where.split("."):
        received = received[step]
    assert received == expected


BODY = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
}
BODIES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "JSON": ({"application/json": {"schema": BODY}}, {"name": "é", "n": 1}, "application/json", '{"name": "é", "n": 1}'),
    "JSON list": ({"application/json": {"schema": ARRAY}}, {"body": ["a"]}, "application/json", '["a"]'),
    "vendor JSON": ({"application/vnd.x+json": {"schema": BODY}}, {"name": "a"}, "application/vnd.x+json", '{"name": "a"}'),
    "form": ({"application/x-www-form-urlencoded": {"schema": BODY}}, {"name": "a b", "n": 2}, "application/x-www-form-urlencoded", "name=a+b&n=2"),
    "text": ({"text/plain": {"schema": {"type": "string"}}}, {"body": "words"}, "text/plain", "words"),
    "bytes": ({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}, {"body": "data:;base64,YWI="}, "application/octet-stream", "ab"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str, origin: str):
    content, arguments, content_type, body = BODIES[name]
    api = parse(
        openapi_description(
            origin,
            op={
                "method": "post",
                "requestBody": {"required": True, "content": content},
            },
        )
    )
    received = echoed_request(call(api, "op", arguments, origin))
    assert (
        received["method"],
        received["headers"]["content-type"],
        received["body"],
    ) == ("POST", content_type, body)
    assert received["headers"]["idempotency-key"] == "run/1"


def test_files_are_sent_as_multipart(origin: str):
    fields = {
        "title": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
    }
    schema = {"type": "object", "properties": fields}
    api = parse(
        openapi_description(
            origin,
            op={
                "method": "post",
                "requestBody": {"content": {"multipart/form-data": {"schema": schema}}},
            },
        )
    )
    received = echoed_request(
        call(
            api,
            "op",
            {"title": 'a "b"', "file": "data:text/plain;base64,aGVsbG8="},
            origin,
        )
    )
    assert received["headers"]["content-type"].startswith(
        "multipart/form-data; boundary="
    )
    assert 'name="title"\r\n\r\na "b"\r\n' in received["body"]
    assert 'name="file"; filename="file"' in received["body"]
    assert "hello" in received["body"]


AUTHS: dict[str, tuple[Auth, str, Any]] = {
    "none": (Auth(), "headers.authorization", None),
    "header": (Auth(type="api_key_header", name="X-Key", value="k"), "headers.x-key", "k"),
    "header bearer": (Auth(type="api_key_header", name="Authorization", prefix="bearer", value="k"), "headers.authorization", "Bearer k"),
    "header basic": (Auth(type="api_key_header", name="Authorization", prefix="basic", value="u:p"), "headers.authorization", "Basic dTpw"),
    "header custom": (Auth(type="api_key_header", name="Authorization", prefix="Token", value="k"), "headers.authorization", "Token k"),
    "query": (Auth(type="api_key_query", name="key", value="k"), "query", [["key", "k"]]),
    "cookie": (Auth(type="api_key_cookie", name="sid", value="k"), "headers.cookie", "sid=k"),
    "basic": (Auth(type="basic", user="u", value="p"), "headers.authorization", "Basic dTpw"),
    "bearer": (Auth(type="bearer", value="k"), "headers.authorization", "Bearer k"),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTHS)
def test_authentication_methods(name: str, origin: str):
    auth, where, expected = AUTHS[name]
    received: Any = echoed_request(
        call(parse(openapi_description(origin, op={})), "op", {}, origin, auth)
    )
    for step in where.split("."):
        received = received.get(step)
    assert received == expected


def test_tokens_are_fetched_once_and_refused_clearly(origin: str):
    api = parse(openapi_description(origin, op={}))
    auth = Auth(
        type="oauth2",
        user="me",
        value="hush",
        token_url=f"http://{origin}/token",
        scopes=["a"],
    )
    received = echoed_request(call(api, "op", {}, origin, auth, times=3))
    assert received["headers"]["authorization"].startswith("Bearer token-")
    invalid_auth = Auth(
        type="oauth2", user="me", value="wrong", token_url=f"http://{origin}/token"
    )
    assert "No access token from" in call(api, "op", {}, origin, invalid_auth).text


def test_answers_of_every_kind(origin: str):
    api = parse(openapi_description(origin, fails={}, text={}, bytes={}, nothing={}))
    failed = call(api, "fails", {}, origin)
    assert (failed.error, failed.text) == (
        "tool_failed", 'tool invoke error: Request failed with status code 422 and {"error": "not like that"}',
    )  # fmt: skip
    assert call(api, "text", {}, origin).text == "plain words"
    assert call(api, "bytes", {}, origin).gathered.blobs[0].data == b"\x00\x01\x02"
    assert call(api, "nothing", {}, origin).text == "Done: status 204."


def test_forbidden_hosts(origin: str):
    api = parse(openapi_description("127.0.0.1:1", op={}))
    assert (
        "Address blocked" in call(api, "op", {}, origin).text
        or "is blocked" in call(api, "op", {}, origin).text
    )
    nowhere = parse(
        '{"openapi": "3.0.0", "info": {"title": "x"}, "paths": {"/a": {"get": {}}}}'
    )
    assert "declares no server" in call(nowhere, "a_get", {}, origin).text


def test_a_path_parameter_cannot_change_the_path(origin: str):
    api = parse(
        openapi_description(
            origin,
            op={
                "path": "/a/{x}/b",
                "parameters": [parameter("x", "path", {"type": "string"})],
            },
        )
    )
    assert "must not be '..'" in call(api, "op", {"x": ".."}, origin).text
    assert (
        echoed_request(call(api, "op", {"x": "../../etc"}, origin))["path"]
        == "/api/a/..%2F..%2Fetc/b"
    )
    assert "Parameter 'x' is missing" in call(api, "op", {}, origin).text


def test_swagger_2():
    api = parse(yaml.dump({
        "swagger": "2.0", "info": {"title": "Old"}, "host": "example.org", "basePath": "/v2", "schemes": ["http", "https"],
        "securityDefinitions": {"k": {"type": "apiKey", "in": "query", "name": "key"}, "b": {"type": "basic"}},
        "definitions": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
        "paths": {"/pets": {
            "get": {"parameters": [{"name": "tag", "in": "query", "type": "array", "items": {"type": "string"}, "collectionFormat": "pipes"}]},
            "post": {"operationId": "add pet!", "parameters": [{"name": "pet", "in": "body", "schema": {"$ref": "#/definitions/Pet"}}]},
            "put": {"parameters": [{"name": "f", "in": "formData", "type": "file"}, {"name": "t", "in": "formData", "type": "string"}]},
        }},
    }))  # fmt: skip
    assert api.server == "https://example.org/v2"
    by_method = {operation.method: operation for operation in api.operations}
    assert by_method["GET"].places["tag"].style == "pipeDelimited"
    assert (by_method["POST"].name, by_method["POST"].schema["required"]) == (
        "add_pet",
        ["name"],
    )
    assert (by_method["PUT"].body, by_method["PUT"].places["f"].is_file) == (
        "multipart/form-data",
        True,
    )
    assert {name: scheme.type for name, scheme in api.schemes.items()} == {
        "k": "query",
        "b": "basic",
    }


def _parse_operation(**operation: Any) -> Operation:
    text = {"openapi": "3.0.0", "info": {"title": "x"}, "paths": {"/a": {"post": operation}}, "components": {"schemas": {
        "Tree": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}},
        "Both": {"allOf": [{"$ref": "#/components/schemas/Tree"}, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]},
        "Loop": {"$ref": "#/components/schemas/Loop"},
    }}}  # fmt: skip
    return parse(json.dumps(text)).operations[0]


def test_circular_and_external_references():
    def body(schema: Any) -> dict[str, Any]:
        return {"requestBody": {"content": {"application/json": {"schema": schema}}}}

    tree = _parse_operation(**body({"$ref": "#/components/schemas/Tree"}))
    assert (
        tree.schema["properties"]["children"]["items"] == {"type": "object"}
        or "children" in tree.schema["properties"]
    )
    combined = _parse_operation(**body({"$ref": "#/components/schemas/Both"}))
    assert set(combined.schema["properties"]) == {"children", "b"}
    for reference in (
        "#/components/schemas/Loop",
        "http://127.0.0.1:1/x.json#/a",
        "#/nowhere/at/all",
        "other.yaml",
    ):
        with pytest.raises(DescriptionError, match="Circular|External|Unresolved"):
            _parse_operation(**body({"$ref": reference}))


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        ("", "must be an object"), ("[1]", "must be an object"), ("{", "neither JSON nor YAML"),
        ("openapi: 3.0.0", "has no operations"), ("a: b", "expected 'openapi: 3…'"), ("x" * (21 << 20), "maximum 20 MB"),
        ('{"openapi": "3.0.0", "paths": {"/a": {"get": {"parameters": [{"name": "x", "in": "moon"}]}}}}', "has no operations"),
    ],
)  # fmt: skip
def test_invalid_descriptions(text: str, expected_message: str):
    with pytest.raises(DescriptionError, match=expected_message):
        parse(text)


def test_tool_names_are_valid_and_unique():
    text = {"openapi": "3.0.0", "info": {"title": "x"}, "paths": {
        f"/a{letter}": {"get": {"operationId": "get thing!" if index < 3 else "x" * 100}} for index, letter in enumerate("abcde")
    }}  # fmt: skip
    names = [operation.name for operation in parse(json.dumps(text)).operations]
    assert len(set(names)) == 5
    assert all(len(name) <= 60 and name.replace("_", "").isalnum() for name in names)


def test_parameters_of_one_name_stay_apart():
    names = ["a.b", "a b", "a/b", "a:b", "a" * 80, "a" * 81, "a" * 82]
    described = [
        parameter(name, "query", {"description": f"number {number}"})
        for number, name in enumerate(names)
    ]
    described.append(parameter("a_b", "header", {"description": "header"}))
    (operation,) = parse(
        openapi_description("h", f={"parameters": described})
    ).operations
    properties = operation.schema["properties"]
    texts = [schema["description"] for schema in properties.values()]
    assert texts == [*(f"number {number}" for number in range(len(names))), "header"]
    sent_names = [location.name for location in operation.places.values()]
    assert sent_names == [*names, "a_b"]
    assert list(properties)[:4] == ["a_b", "a_b_query", "a_b_query_2", "a_b_query_3"]
    assert list(operation.places) == list(properties)
    assert all(len(name) <= 60 for name in properties)


@pytest.mark.parametrize(
    ("summary", "details", "expected"),
    [
        ("List pets", "", "List pets"),
        ("", "Lists all pets.", "Lists all pets."),
        ("List pets", "list pets", "list pets"),
        ("List pets.", "List pets of a shop.", "List pets of a shop."),
        ("List pets", "At most 100.", "List pets. At most 100."),
        ("List pets.", "At most 100.", "List pets. At most 100."),
        ("宠物列表。", "最多一百个。", "宠物列表。 最多一百个。"),
        ("Any pets?", "Counts them.", "Any pets? Counts them."),
    ],
)
def test_a_description_does_not_repeat_the_summary(
    summary: str, details: str, expected: str
):
    described = {"summary": summary, "description": details}
    (operation,) = parse(openapi_description("h", f=described)).operations
    assert operation.description == expected


def test_a_plugin_manifest_has_the_url_of_its_api():
    manifest = {
        "schema_version": "v1",
        "api": {"type": "openapi", "url": "https://example.org/openapi.yaml"},
    }
    assert manifest_url(json.dumps(manifest)) == "https://example.org/openapi.yaml"
    with pytest.raises(
        DescriptionError, match="API description is at https://example.org/openapi.yaml"
    ):
        parse(json.dumps(manifest))
