"""OpenAPI 3 and Swagger 2 descriptions as operations: what a tool needs, compact. Pure.

References are followed within the document alone. A description of others may be large, wrong, or go round in circles:
what cannot be told of one operation leaves that operation out, and says so.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from modelyard.base.fields import whole_number
from modelyard.base.numbers import FiniteLoader
from modelyard.base.patterns import PatternError, compile_pattern
from modelyard.base.urls import join
from modelyard.tools.entities import ToolError

MOST_BYTES = 20 << 20
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_MOST_OPERATIONS = 5000
_MOST_NODES = 5_000_000
_MOST_DEPTH = 6
_MOST_SCHEMA = 400  # nodes of one operation's schema: what is deeper or wider is "anything"
_MOST_WORDS = 600
_PLAIN = re.compile(r"[^a-zA-Z0-9_-]+")
_BODIES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain",
           "application/octet-stream")  # fmt: skip
_KEPT = frozenset({
    "type", "enum", "format", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "default", "const", "nullable", "uniqueItems",
})  # fmt: skip


class DescriptionError(ToolError):
    """It is no description of an API that can be read."""

    code = "invalid_description"


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A parameter of a request: where it goes, and how it is written there."""

    name: str
    """In the request."""
    where: str
    """`path`, `query`, `header`, `cookie`, `body` (a field of it) or `whole` (all of it)."""
    style: str = ""
    explode: bool = True
    is_file: bool = False


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    method: str
    path: str
    description: str = ""
    server: str = ""
    """Where it differs from the API's."""
    schema: dict[str, Any] = {}
    """JSON schema of the arguments."""
    places: dict[str, Place] = {}
    """Argument → where it goes."""
    body: str = ""
    """Media type; empty for none."""
    is_safe: bool = False
    """Whether it only looks."""
    auth: list[str] = []
    """Security schemes, any of which will do; empty for none."""


class Scheme(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an API wants to be shown who calls."""

    type: str
    """`header`, `query`, `cookie`, `basic`, `bearer` or `oauth2`."""
    name: str = ""
    """Of the header, the parameter, the cookie."""
    token_url: str = ""
    scopes: list[str] = []


class Api(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    title: str
    description: str = ""
    version: str = ""
    server: str = ""
    operations: list[Operation] = []
    schemes: dict[str, Scheme] = {}
    left_out: list[str] = []
    """What could not be made a tool, and why."""


def parse(data: bytes | str, *, url: str = "") -> Api:
    """`url` is where it came from: relative servers are meant from there. Raises DescriptionError."""
    document = _document(data)
    if "api" in document and "schema_version" in document:
        raise DescriptionError(f"this is a plugin's manifest; its API is described at {document['api'].get('url')}")
    if str(document.get("swagger", "")).startswith("2"):
        return _Reader(document, url, is_old=True).api()
    if not str(document.get("openapi", "")).startswith("3"):
        raise DescriptionError("an OpenAPI 3 or Swagger 2 description has 'openapi: 3…' or 'swagger: 2.0'")
    return _Reader(document, url, is_old=False).api()


def manifest_url(data: bytes | str) -> str:
    """Where a plugin's manifest says that its API is described; empty where this is none."""
    try:
        document = _document(data)
    except DescriptionError:
        return ""
    about = document.get("api")
    return str(about.get("url") or "") if isinstance(about, Mapping) and "schema_version" in document else ""


def _document(data: bytes | str) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise DescriptionError(f"a description has at most {MOST_BYTES >> 20} MB, not {len(data) >> 20}")
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    found: Any
    try:
        found = msgspec.json.decode(text) if text.lstrip()[:1] == "{" else None
    except msgspec.DecodeError:
        found = None
    if found is None:
        try:
            found = yaml.load(text, Loader=FiniteLoader)  # noqa: S506  a safe one
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise DescriptionError(f"the description is neither JSON nor YAML: {str(error)[:200]}") from error
        _check_size(found)
    if not isinstance(found, dict):
        raise DescriptionError("the description must be an object")
    return found


def _check_size(document: Any) -> None:
    """Raises DescriptionError where YAML's references make more of it than was written: it is read as if each stood
    for itself, and ten lines may stand for more than any memory holds."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, dict | list):
            return 1
        if (known := sizes.get(id(value))) is not None:
            return known
        sizes[id(value)] = _MOST_NODES  # until it is counted: what holds itself has no end
        inner = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = total = min(1 + sum(size(one) for one in inner), _MOST_NODES)
        return total

    try:
        is_small = size(document) < _MOST_NODES
    except RecursionError:
        is_small = False
    if not is_small:
        raise DescriptionError("the description's references make too much of it, or go round in a circle")


@dataclass(slots=True)
class _Budget:
    left: int = _MOST_SCHEMA


@dataclass(slots=True)
class _Making:
    """An operation in the making."""

    properties: dict[str, Any] = field(default_factory=dict[str, Any])
    required: list[str] = field(default_factory=list[str])
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    budget: _Budget = field(default_factory=_Budget)

    def add(self, place: Place, schema: Mapping[str, Any], *, required: bool) -> None:
        name = _PLAIN.sub("_", place.name).strip("_")[:60] or place.where
        if name in self.places:
            name = f"{name}_{place.where}"
        self.places[name] = place
        self.properties[name] = dict(schema)
        if required:
            self.required.append(name)


class _Reader:
    def __init__(self, document: Mapping[str, Any], url: str, *, is_old: bool) -> None:
        self._document = document
        self._url = url
        self._is_old = is_old
        self._left_out: list[str] = []

    def api(self) -> Api:
        info = _mapping(self._document.get("info"))
        operations: list[Operation] = []
        names: set[str] = set()
        for path, method, entry, shared in self._entries():
            if len(operations) >= _MOST_OPERATIONS:
                self._left_out.append(f"more than {_MOST_OPERATIONS:,} operations")
                break
            try:
                operations.append(self._operation(path, method, entry, shared, names))
            except (DescriptionError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
                self._left_out.append(f"{method.upper()} {path}: {error}")
        if not operations:
            why = f": {self._left_out[0]}" if self._left_out else ""
            raise DescriptionError(f"the description has no operations{why}")
        return Api(
            title=str(info.get("title") or "api"), description=_words(info.get("description")),
            version=str(info.get("version") or ""), server=self._server(self._document), operations=operations,
            schemes=self._schemes(), left_out=self._left_out[:100],
        )  # fmt: skip

    def _entries(self) -> Iterator[tuple[str, str, Mapping[str, Any], Sequence[Any]]]:
        for path, item in _mapping(self._document.get("paths")).items():
            item = self._resolved(item)
            if not isinstance(item, Mapping):
                continue
            shared = item.get("parameters") or ()
            for method in _METHODS:
                if isinstance(entry := item.get(method), Mapping):
                    server = item.get("servers")
                    yield str(path), method, {**({"servers": server} if server else {}), **entry}, shared

    # references

    def _resolved(self, value: Any) -> Any:
        """What a reference stands for. Raises DescriptionError where that lies elsewhere, or goes round."""
        seen: set[str] = set()
        while isinstance(value, Mapping) and isinstance(reference := value.get("$ref"), str):
            if reference in seen:
                raise DescriptionError(f"reference {reference[:100]!r} goes round in a circle")
            seen.add(reference)
            if not reference.startswith("#/"):
                raise DescriptionError(f"reference {reference[:100]!r} leads out of the document; it is not followed")
            found: Any = self._document
            for step in reference[2:].split("/"):
                step = step.replace("~1", "/").replace("~0", "~").replace("%7B", "{").replace("%7D", "}")
                index = whole_number(step) if isinstance(found, list) else None
                if index is not None and index < len(found):
                    found = found[index]
                elif isinstance(found, Mapping) and step in found:
                    found = found[step]
                else:
                    raise DescriptionError(f"reference {reference[:100]!r} leads nowhere")
            value = found
        return value

    def _schema(self, value: Any, budget: _Budget, seen: tuple[str, ...] = ()) -> dict[str, Any]:  # noqa: C901
        """A schema with its references in place, as deep as a model can use; what goes round is any object."""
        if not isinstance(value, Mapping):
            return {}
        reference = value.get("$ref")
        if isinstance(reference, str):
            if reference in seen or not reference.startswith("#/"):
                return {"type": "object"} if reference in seen else {}
            seen = (*seen, reference)
            try:
                value = self._resolved(value)
            except DescriptionError:
                return {}
            if not isinstance(value, Mapping):
                return {}
        budget.left -= 1
        if budget.left < 0 or len(seen) > _MOST_DEPTH * 2:
            return {}
        found = {name: value[name] for name in _KEPT if name in value and _is_plain(value[name])}
        if isinstance(value.get("type"), list):
            found["type"] = [str(one) for one in value["type"]]
        if value.get("description"):
            found["description"] = _words(value["description"], 200)
        found.pop("nullable", None)
        if not _is_pattern(found.get("pattern", "")):
            del found["pattern"]  # another dialect's
        for name in ("allOf", "oneOf", "anyOf"):
            parts = value.get(name)
            if not isinstance(parts, list) or not parts:
                continue
            inner = [self._schema(one, budget, seen) for one in parts[:10]]
            if name == "allOf" or len(inner) == 1:
                found = _merged(found, inner)
            else:
                found["anyOf"] = inner
        if isinstance(value.get("properties"), Mapping):
            own = {
                str(name): self._schema(one, budget, seen)
                for name, one in value["properties"].items()
                if not (isinstance(one, Mapping) and one.get("readOnly"))
            }
            found["properties"] = {**found.get("properties", {}), **own}
            found.setdefault("type", "object")
        if isinstance(value.get("required"), list):
            known = found.get("properties", {})
            found["required"] = [str(one) for one in value["required"] if str(one) in known]
        if "items" in value or found.get("type") == "array":
            found["items"] = self._schema(value.get("items"), budget, seen)
        if isinstance(more := value.get("additionalProperties"), Mapping) and more:
            found["additionalProperties"] = self._schema(more, budget, seen)
        return found

    # operations

    def _operation(
        self, path: str, method: str, entry: Mapping[str, Any], shared: Sequence[Any], names: set[str]
    ) -> Operation:
        making = _Making()
        given: dict[tuple[str, str], Mapping[str, Any]] = {}
        for one in [*shared, *(entry.get("parameters") or ())]:
            parameter = self._resolved(one)
            given[str(parameter["name"]), str(parameter["in"])] = parameter
        form: list[Mapping[str, Any]] = []
        body = ""
        for parameter in given.values():
            match parameter["in"]:
                case "body":
                    body = "application/json"
                    self._fields(making, self._resolved(parameter.get("schema") or {}), parameter, body)
                case "formData":
                    form.append(parameter)
                case "path" | "query" | "header" | "cookie":
                    self._parameter(making, parameter)
                case other:
                    raise DescriptionError(f"parameter {parameter['name']!r} stands in {other!r}")
        if form:
            is_multipart = any(one.get("type") == "file" for one in form)
            body = "multipart/form-data" if is_multipart else "application/x-www-form-urlencoded"
            for one in form:
                self._form_field(making, one)
        elif "requestBody" in entry:
            body = self._request_body(making, self._resolved(entry["requestBody"]))
        for name in re.findall(r"\{([^}]+)\}", path):  # what a path needs, whether it was described or not
            if not any(one.where == "path" and one.name == name for one in making.places.values()):
                making.add(Place(name=name, where="path"), {"type": "string"}, required=True)
        summary, told = _words(entry.get("summary")), _words(entry.get("description"))
        description = (
            summary
            if told.startswith(summary) and not told
            else f"{summary}. {told}"
            if summary and told
            else summary or told
        )
        return Operation(
            name=_name(entry.get("operationId") or f"{path}_{method}", names), method=method.upper(), path=path,
            description=description or f"{method.upper()} {path}",
            server=self._server(entry) if entry.get("servers") else "",
            schema={"type": "object", "properties": making.properties, "required": making.required},
            places=making.places, body=body, is_safe=method in ("get", "head", "options"),
            auth=self._auth(entry),
        )  # fmt: skip

    def _parameter(self, making: _Making, one: Mapping[str, Any]) -> None:
        where = str(one["in"])
        if "content" in one:
            content = _mapping(one["content"])
            schema = self._schema(_mapping(next(iter(content.values()), {})).get("schema"), making.budget)
            style = "json"
        else:
            schema = self._schema(one if self._is_old else one.get("schema"), making.budget)
            style = self._style(one, where)
        explode = one.get("explode")
        if self._is_old:
            schema = {name: value for name, value in schema.items() if name not in ("required", "in")}
            explode = one.get("collectionFormat") == "multi"
        if one.get("description"):
            schema["description"] = _words(one["description"], 300)
        is_exploded = bool(explode) if explode is not None else style in ("form", "")
        making.add(
            Place(name=str(one["name"]), where=where, style=style, explode=is_exploded), schema,
            required=where == "path" or bool(one.get("required")),
        )  # fmt: skip

    def _style(self, one: Mapping[str, Any], where: str) -> str:
        if self._is_old:
            return {"ssv": "spaceDelimited", "pipes": "pipeDelimited", "tsv": "tabDelimited"}.get(
                str(one.get("collectionFormat")), "form" if where == "query" else "simple"
            )
        return str(one.get("style") or ("form" if where in ("query", "cookie") else "simple"))

    def _form_field(self, making: _Making, one: Mapping[str, Any]) -> None:
        is_file = one.get("type") == "file"
        schema = {"type": "string"} if is_file else self._schema(one, making.budget)
        schema.pop("required", None)
        if one.get("description"):
            schema["description"] = _words(one["description"], 300)
        making.add(
            Place(name=str(one["name"]), where="body", is_file=is_file), schema, required=bool(one.get("required"))
        )

    def _request_body(self, making: _Making, given: Any) -> str:
        content = _mapping(_mapping(given).get("content"))
        if not content:
            return ""
        by_kind = {str(name).partition(";")[0].strip().lower(): one for name, one in content.items()}
        kind = next((one for one in _BODIES if one in by_kind), None)
        kind = kind or next((one for one in by_kind if one.endswith(("+json", "/json"))), None) or next(iter(by_kind))
        schema = self._resolved(_mapping(by_kind[kind]).get("schema") or {})
        self._fields(making, schema, given, kind)
        return kind if kind != "*/*" else "application/json"

    def _fields(self, making: _Making, schema: Any, given: Mapping[str, Any], kind: str) -> None:
        """A body's fields as arguments beside the others; a body that is no object as one argument."""
        is_fielded = "json" in kind or kind in ("application/x-www-form-urlencoded", "multipart/form-data", "*/*")
        read = self._schema(schema, making.budget)
        if not is_fielded or not read.get("properties") or "anyOf" in read:
            read = read or ({} if "json" in kind else {"type": "string"})
            if given.get("description"):
                read["description"] = _words(given["description"], 300)
            is_file = kind == "application/octet-stream"
            making.add(Place(name="body", where="whole", is_file=is_file), read, required=bool(given.get("required")))
            return
        required = set(read.get("required") or ()) if given.get("required", True) else set[str]()
        for name, one in read["properties"].items():
            is_file = one.get("format") == "binary" or (
                one.get("type") == "array" and _mapping(one.get("items")).get("format") == "binary"
            )
            making.add(Place(name=name, where="body", is_file=is_file), one, required=name in required)

    # servers and security

    def _server(self, owner: Mapping[str, Any]) -> str:
        if self._is_old:
            host = str(self._document.get("host") or "")
            schemes = self._document.get("schemes") or ["https"]
            scheme = "https" if "https" in schemes else str(schemes[0])
            base = str(self._document.get("basePath") or "")
            return f"{scheme}://{host}{base}".rstrip("/") if host else join(self._url, base).rstrip("/")
        servers = owner.get("servers") or self._document.get("servers") or ()
        first = _mapping(servers[0]) if isinstance(servers, list) and servers else {}
        url = str(first.get("url") or "")
        for name, one in _mapping(first.get("variables")).items():
            url = url.replace("{" + str(name) + "}", str(_mapping(one).get("default") or ""))
        url = join(self._url, url)
        return url.rstrip("/") if url.lower().startswith(("http://", "https://")) else ""

    def _schemes(self) -> dict[str, Scheme]:
        owner = self._document if self._is_old else _mapping(self._document.get("components"))
        listed = _mapping(owner.get("securityDefinitions" if self._is_old else "securitySchemes"))
        found: dict[str, Scheme] = {}
        for name, one in listed.items():
            try:
                scheme = _scheme(_mapping(self._resolved(one)))
            except DescriptionError:
                continue
            if scheme is not None:
                found[str(name)] = scheme
        return found

    def _auth(self, entry: Mapping[str, Any]) -> list[str]:
        wanted = entry.get("security", self._document.get("security")) or ()
        return [str(name) for one in wanted if isinstance(one, Mapping) for name in one]


def _scheme(one: Mapping[str, Any]) -> Scheme | None:
    match one.get("type"):
        case "apiKey" if one.get("in") in ("header", "query", "cookie"):
            return Scheme(type=str(one["in"]), name=str(one.get("name") or ""))
        case "http" if str(one.get("scheme", "")).lower() in ("basic", "bearer"):
            return Scheme(type=str(one["scheme"]).lower())
        case "basic":
            return Scheme(type="basic")
        case "oauth2":
            flows = _mapping(one.get("flows")) or {str(one.get("flow")): one}
            flow = _mapping(flows.get("clientCredentials") or flows.get("application"))
            return Scheme(
                type="oauth2", token_url=str(flow.get("tokenUrl") or ""), scopes=list(_mapping(flow.get("scopes")))
            )
        case "openIdConnect":
            return Scheme(type="bearer")
        case _:
            return None


def _merged(found: dict[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`allOf` as one schema."""
    whole = dict(found)
    for one in parts:
        for name, value in one.items():
            if name == "properties":
                whole["properties"] = {**whole.get("properties", {}), **value}
            elif name == "required":
                whole["required"] = [
                    *whole.get("required", []),
                    *(each for each in value if each not in whole.get("required", [])),
                ]
            else:
                whole.setdefault(name, value)
    return whole


def _name(given: Any, taken: set[str]) -> str:
    """A name that every model's API takes, and that no other operation has."""
    base = _PLAIN.sub("_", str(given)).strip("_")[:60] or "operation"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base[:56]}_{count}"
    taken.add(name)
    return name


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any, most: int = _MOST_WORDS) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        compile_pattern(value)
    except PatternError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether it is JSON: YAML has dates and more."""
    try:
        return len(json.dumps(value)) < 20_000
    except (TypeError, ValueError, RecursionError):
        return False
