"""A table of rows as OpenAPI 3.1: what each takes and answers, by the shapes that the handlers use."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.version import __version__
from modelyard.gateway.table import Admission, Api, Auth, Body, Content, Listed, OneOf, Row, Schema
from modelyard.models.types import JSON

_REFERENCE = "#/components/schemas/{name}"
_SCHEMES: Mapping[Admission, tuple[str, JSON]] = {
    Admission.API_KEY: ("key", {"type": "http", "scheme": "bearer"}),
    Admission.APP_KEY: ("appKey", {"type": "http", "scheme": "bearer", "description": "An app's key, `app-…`."}),
    Admission.DATASET_KEY: (
        "datasetKey",
        {"type": "http", "scheme": "bearer", "description": "A key of datasets, `dataset-…`, or an API key."},
    ),
    Admission.VISITOR: ("visitor", {"type": "apiKey", "in": "header", "name": "x-visitor"}),
    Admission.SESSION: ("session", {"type": "apiKey", "in": "cookie", "name": "modelyard-session"}),
    Admission.SIGNED_ADDRESS: ("signature", {"type": "apiKey", "in": "query", "name": "sign"}),
}
"""What is not here is shown in the path, or not at all."""


def describe(api: Api) -> JSON:
    """The API's OpenAPI 3.1 document. Deterministic: the same table gives the same bytes."""
    inputs, outputs = _Shapes(is_answer=False), _Shapes(is_answer=True)
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
            "schemas": {**inputs.components(), **outputs.components(), "Error": api.errors.schema},
        },
        "paths": paths,
    }


def answer_schema(api: Api, row: Row, status: int, content_type: str) -> JSON | None:
    """What a JSON answer of this row must be; None where the row promises no JSON for it.

    With `components`, so that it stands alone.
    """
    document = describe(Api(
        name=api.name, title=api.title, about=api.about, prefixes=api.prefixes, errors=api.errors, rows=(row,)
    ))  # fmt: skip
    (operations,) = document["paths"].values()
    (operation,) = operations.values()
    answers = operation["responses"]
    answer = answers.get(str(status)) or answers.get(f"{status // 100}XX") or {}
    schema = answer.get("content", {}).get(content_type, {}).get("schema")
    return None if schema is None else {**schema, "components": document["components"]}


def _path_of(row: Row) -> str:
    return row.path.replace(":path}", "}")


def _schemes_of(rows: Iterable[Row]) -> JSON:
    used = {row.auth.shows for row in rows}
    return dict(scheme for shows, scheme in _SCHEMES.items() if shows in used)


def _security_of(auth: Auth) -> list[JSON]:
    """Empty where nothing is shown that OpenAPI has words for."""
    scheme = _SCHEMES.get(auth.shows)
    return [{scheme[0]: []}] if scheme is not None else []


def _operation(row: Row, inputs: "_Shapes", outputs: "_Shapes") -> JSON:
    operation: JSON = {
        "operationId": _operation_id(row),
        "summary": row.summary,
        "security": _security_of(row.auth),
        "parameters": list(_parameters(row)),
        "responses": _responses(row, outputs),
    }
    if row.auth.role is not None:
        operation["x-modelyard-role"] = row.auth.role.value
    if row.takes is not None:
        operation["requestBody"] = {"required": row.needs_body, "content": inputs.content(row.takes)}
    return operation


def _operation_id(row: Row) -> str:
    """The method and the path, in the characters that generators of clients take."""
    # Paths that differ in a dash and an underscore alone keep names that differ.
    words = re.findall(r"[A-Za-z0-9]+", _path_of(row).replace("-", ""))
    return "_".join([row.method.lower(), *words])


def _parameters(row: Row) -> Iterator[JSON]:
    for name in row.names:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for query in row.query:
        yield {
            "name": query.name, "in": "query", "required": query.is_required, "description": query.about,
            "schema": {"type": query.type},
        }  # fmt: skip


def _responses(row: Row, outputs: "_Shapes") -> JSON:
    answer: JSON = {"description": row.summary}
    if row.answer is not None:
        answer["content"] = outputs.content(row.answer)
    error = {"description": "What is wrong.", "content": _json({"$ref": _REFERENCE.format(name="Error")})}
    responses: JSON = {str(status): answer for status in (row.status, *row.other_statuses)}
    return {**responses, **{str(status): error for status in row.errors}, "4XX": error, "5XX": error}


def _json(schema: JSON) -> JSON:
    return {"application/json": {"schema": schema}}


class _Shapes:
    """The structs that bodies are made of, and the schemas by which a description names them.

    An answer holds every field, those with defaults too, unless its struct leaves defaults out; a request may lack
    those that have one.
    """

    def __init__(self, *, is_answer: bool) -> None:
        self._is_answer = is_answer
        self._used: list[Any] = []

    def content(self, body: Body) -> JSON:
        """Content types → schemas, as OpenAPI's `content`."""
        match body:
            case OneOf(bodies):
                merged: JSON = {}
                for each in bodies:
                    merged |= self.content(each)
                return merged
            case Content(kind):
                return {kind: {"schema": {"type": "string"}}}
            case Schema(schema):
                return _json(schema)
            case Listed(shape, more, optional):
                listed = {"type": "array", "items": self._named(shape)}
                properties = {"data": listed, **more, **optional}
                return _json({"type": "object", "required": ["data", *more], "properties": properties})
            case shape:
                return _json(self._named(shape))

    def _named(self, shape: Any) -> JSON:
        if isinstance(shape, dict):  # a schema by hand
            return shape
        self._used.append(shape)
        (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFERENCE)
        return self._renamed(schema)

    def components(self) -> JSON:
        """The named schemas of everything that was used."""
        _, schemas = msgspec.json.schema_components(self._used, ref_template=_REFERENCE)
        lacking = _left_out(self._used)
        return {self._name(name): self._renamed(self._whole(name, schema, lacking)) for name, schema in schemas.items()}

    def _whole(self, name: str, schema: JSON, lacking: set[str]) -> JSON:
        """An answer's schema asks for every field; that of a struct that leaves defaults out, for those without."""
        if not self._is_answer or schema.get("type") != "object" or "properties" not in schema or name in lacking:
            return schema
        return {**schema, "required": list(schema["properties"])}

    def _name(self, name: str) -> str:
        return name if self._is_answer or name.endswith("Input") else f"{name}Input"

    def _renamed(self, schema: Any) -> Any:
        """A request's shapes have names of their own: what a request may leave out, an answer has."""
        if self._is_answer:
            return schema
        if isinstance(schema, dict):
            return {
                key: self._name(value) if key == "$ref" else self._renamed(value) for key, value in schema.items()
            }  # fmt: skip
        return [self._renamed(value) for value in schema] if isinstance(schema, list) else schema


def _left_out(shapes: Iterable[Any]) -> set[str]:
    """The names of structs whose encoding leaves out what has its default; those inside others too."""
    seen: set[type[Any]] = set()
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(shapes))
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls not in seen:
                seen.add(info.cls)
                waiting += [field.type for field in info.fields]
        else:
            waiting += _inside(info)
    return {struct.__name__ for struct in seen if struct.__struct_config__.omit_defaults}


def _inside(info: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    for name in ("item_type", "key_type", "value_type", "type"):
        inner = getattr(info, name, None)
        if isinstance(inner, msgspec.inspect.Type):
            yield inner
    for name in ("types", "item_types"):
        yield from getattr(info, name, None) or ()
