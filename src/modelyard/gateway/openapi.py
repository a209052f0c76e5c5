"""OpenAPI 3.1 documents from route tables, with the schemas of the types that the
handlers use."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_object
from modelyard.base.version import __version__
from modelyard.gateway.table import (
    Admission,
    Api,
    Auth,
    Body,
    Content,
    Listed,
    OneOf,
    Row,
    Schema,
)
from modelyard.models.types import JSON

_REFERENCE = "#/components/schemas/{name}"
_SCHEMES: Mapping[Admission, tuple[str, JSON]] = {
    Admission.API_KEY: ("key", {"type": "http", "scheme": "bearer"}),
    Admission.APP_KEY: (
        "appKey",
        {
            "type": "http",
            "scheme": "bearer",
            "description": "API key of an app, `app-…`.",
        },
    ),
    Admission.DATASET_KEY: (
        "datasetKey",
        {
            "type": "http",
            "scheme": "bearer",
            "description": "Dataset key, `dataset-…`, or an API key.",
        },
    ),
    Admission.VISITOR: (
        "visitor",
        {"type": "apiKey", "in": "header", "name": "x-visitor"},
    ),
    Admission.SESSION: (
        "session",
        {"type": "apiKey", "in": "cookie", "name": "modelyard-session"},
    ),
    Admission.SIGNED_ADDRESS: (
        "signature",
        {"type": "apiKey", "in": "query", "name": "sign"},
    ),
}
"""Security schemes by kind of admission. Kinds that are missing here are part of the
path, or public."""


def describe(api: Api) -> JSON:
    """Return the OpenAPI 3.1 document of an API. It is deterministic: the same table
    gives the same bytes."""
    # Requests and responses have separate schemas, because they differ in their
    # required fields.
    inputs, outputs = _SchemaRegistry(is_answer=False), _SchemaRegistry(is_answer=True)
    paths: JSON = {}
    for row in api.rows:
        operations = paths.setdefault(_path_of(row), {})
        operations[row.method.lower()] = _operation(row, inputs, outputs)
    return {
        "openapi": "3.1.0",
        "info": {"title": api.title, "version": __version__, "description": api.about},
        "servers": [{"url": "/"}],
        "components": {
            "securitySchemes": _schemes_of(api.rows),
            # The error format belongs to the API as a whole, so every document has one
            # schema for it.
            "schemas": {
                **inputs.components(),
                **outputs.components(),
                "Error": api.errors.schema,
            },
        },
        "paths": paths,
    }


def response_schema(api: Api, row: Row, status: int, content_type: str) -> JSON | None:
    """Return the JSON schema of a row's response, or None if the row declares no JSON
    for that status and content type.

    The schema includes `components`, so that it is complete by itself.
    """
    # A document of this row alone contains exactly the components that it needs.
    document = describe(
        Api(
            name=api.name,
            title=api.title,
            about=api.about,
            prefixes=api.prefixes,
            errors=api.errors,
            rows=(row,),
        )
    )
    (operations,) = document["paths"].values()
    (operation,) = operations.values()
    answers = operation["responses"]
    # Errors are declared by class, as 4XX and 5XX.
    answer: dict[str, Any] = (
        answers.get(str(status)) or answers.get(f"{status // 100}XX") or {}
    )
    content: dict[str, Any] = answer.get("content", {})
    media_type: dict[str, Any] = content.get(content_type, {})
    schema = media_type.get("schema")
    return None if schema is None else {**schema, "components": document["components"]}


def _path_of(row: Row) -> str:
    """Return the path in OpenAPI's syntax, which has no path converters."""
    return row.path.replace(":path}", "}")


def _schemes_of(rows: Iterable[Row]) -> JSON:
    """Return the security schemes that the rows use."""
    used = {row.auth.shows for row in rows}
    return dict(scheme for shows, scheme in _SCHEMES.items() if shows in used)


def _security_of(auth: Auth) -> list[JSON]:
    """Return the security requirement of a row; empty if OpenAPI has no scheme for it."""
    scheme = _SCHEMES.get(auth.shows)
    return [{scheme[0]: []}] if scheme is not None else []


def _operation(row: Row, inputs: "_SchemaRegistry", outputs: "_SchemaRegistry") -> JSON:
    """Return the operation object of a row."""
    operation: JSON = {
        "operationId": _operation_id(row),
        "summary": row.summary,
        "security": _security_of(row.auth),
        "parameters": list(_parameters(row)),
        "responses": _responses(row, outputs),
    }
    # OpenAPI has no field for the required role.
    if row.auth.role is not None:
        operation["x-modelyard-role"] = row.auth.role.value
    if row.takes is not None:
        operation["requestBody"] = {
            "required": row.needs_body,
            "content": inputs.content(row.takes),
        }
    return operation


def _operation_id(row: Row) -> str:
    """Return the operation id: method and path, in characters that client generators
    accept."""
    # Removing dashes keeps paths apart that differ only in a dash and an underscore.
    tokens = re.findall(r"[A-Za-z0-9]+", _path_of(row).replace("-", ""))
    return "_".join([row.method.lower(), *tokens])


def _parameters(row: Row) -> Iterator[JSON]:
    """Yield the path parameters and the query parameters of a row."""
    for name in row.names:
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
        }
    for query in row.query:
        yield {
            "name": query.name,
            "in": "query",
            "required": query.is_required,
            "description": query.about,
            "schema": {"type": query.type},
        }


def _responses(row: Row, outputs: "_SchemaRegistry") -> JSON:
    """Return the responses of a row: its successful statuses, its particular errors,
    and all others by class."""
    answer: JSON = {"description": row.summary}
    if row.answer is not None:
        answer["content"] = outputs.content(row.answer)
    error = {
        "description": "Description of the error.",
        "content": _json({"$ref": _REFERENCE.format(name="Error")}),
    }
    responses: JSON = {
        str(status): answer for status in (row.status, *row.other_statuses)
    }
    # 4XX and 5XX cover all errors that the row does not name.
    return {
        **responses,
        **{str(status): error for status in row.errors},
        "4XX": error,
        "5XX": error,
    }


def _json(schema: JSON) -> JSON:
    """Return a JSON body in OpenAPI's `content` form."""
    return {"application/json": {"schema": schema}}


class _SchemaRegistry:
    """The struct types of request or response bodies, and their named schemas.

    In a response every field is required, including those with defaults, unless its
    struct omits defaults. In a request, fields with a default are optional.
    """

    def __init__(self, *, is_answer: bool) -> None:
        self._is_answer = is_answer
        self._used: list[Any] = []

    def content(self, body: Body) -> JSON:
        """Return a body in OpenAPI's `content` form: content types → schemas. Remembers
        the types that it uses."""
        match body:
            case OneOf(bodies):
                merged: JSON = {}
                # Alternatives of one body have different content types, so they can be
                # merged.
                for alternative in bodies:
                    merged |= self.content(alternative)
                return merged
            case Content(kind):
                return {kind: {"schema": {"type": "string"}}}
            case Schema(schema):
                return _json(schema)
            case Listed(shape, more, optional):
                # A list is an object with `data`, and the fields that its row adds.
                listed = {"type": "array", "items": self._reference(shape)}
                properties = {"data": listed, **more, **optional}
                return _json(
                    {
                        "type": "object",
                        "required": ["data", *more],
                        "properties": properties,
                    }
                )
            case shape:
                return _json(self._reference(shape))

    def _reference(self, shape: Any) -> JSON:
        """Return the schema of a type as a reference, or a handwritten schema
        unchanged."""
        if is_object(shape):
            return shape
        self._used.append(shape)
        (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFERENCE)
        return self._rename_references(schema)

    def components(self) -> JSON:
        """Return the named schemas of all types that were used."""
        _, schemas = msgspec.json.schema_components(self._used, ref_template=_REFERENCE)
        lacking = _structs_omitting_defaults(self._used)
        components: JSON = {}
        # References are renamed as well, or they would lead nowhere.
        for name, schema in schemas.items():
            complete = self._with_all_required(name, schema, lacking)
            components[self._name(name)] = self._rename_references(complete)
        return components

    def _with_all_required(self, name: str, schema: JSON, lacking: set[str]) -> JSON:
        """Return a response's schema with all fields required; if its struct omits
        defaults, unchanged."""
        has_members = schema.get("type") == "object" and "properties" in schema
        if not self._is_answer or not has_members or name in lacking:
            return schema
        return {**schema, "required": list(schema["properties"])}

    def _name(self, name: str) -> str:
        """Return the name of a schema; those of requests end with Input."""
        return name if self._is_answer or name.endswith("Input") else f"{name}Input"

    def _rename_references(self, schema: Any) -> Any:
        """Return a schema with its references renamed.

        A type that is used in requests and responses has two schemas, so they need
        different names.
        """
        if self._is_answer:
            return schema
        if is_object(schema):
            return {
                key: self._name(value)
                if key == "$ref"
                else self._rename_references(value)
                for key, value in schema.items()
            }
        return (
            [self._rename_references(value) for value in schema]
            if is_array(schema)
            else schema
        )


def _structs_omitting_defaults(shapes: Iterable[Any]) -> set[str]:
    """Return the names of all structs that omit defaults when encoded, including nested
    ones."""
    struct_types: set[type[Any]] = set()
    # Walk the types with a work list, because structs can refer to each other in
    # cycles.
    waiting = list(msgspec.inspect.multi_type_info(shapes))
    while waiting:
        info = waiting.pop()
        if not isinstance(info, msgspec.inspect.StructType):
            waiting += _inner_types(info)
        elif info.cls not in struct_types:
            struct_types.add(info.cls)
            waiting += [field.type for field in info.fields]
    return {
        struct.__name__
        for struct in struct_types
        if struct.__struct_config__.omit_defaults
    }


def _inner_types(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Yield the types of which a type is composed."""
    for name in ("item_type", "key_type", "value_type", "type"):
        inner = getattr(info, name, None)
        if isinstance(inner, msgspec.inspect.Type):
            yield inner
    for name in ("types", "item_types"):
        yield from getattr(info, name, None) or ()
