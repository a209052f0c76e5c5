"""Convert OpenAPI 3 and Swagger 2 documents to compact operations that can be offered
as tools. No I/O.

References are resolved within the document only. Third-party documents may be huge,
invalid or cyclic: an operation that cannot be converted is skipped and the reason is
recorded in `Api.left_out`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from modelyard.base.fields import whole_number
from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.base.number_bounds import FiniteLoader
from modelyard.base.patterns import PatternError, compile_pattern
from modelyard.base.urls import join
from modelyard.tools.entities import ToolError

MAX_BYTES = 20 << 20
# HTTP methods that a path item may define.
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_MAX_OPERATIONS = 5000
# References let a small document expand to an enormous one.
_MAX_NODES = 5_000_000
# Deeper schemas are of no use to a model, and cost tokens in each call.
_MAX_DEPTH = 6
# Nodes of one operation's schema; whatever is deeper or wider accepts any value.
_MAX_SCHEMA_NODES = 400
_MAX_TEXT_CHARS = 600
_SENTENCE_ENDS = (".", "!", "?", "…", ":", "。", "！", "？")
# Characters that models' APIs do not allow in function names.
_UNSAFE_NAME_CHARS = re.compile(r"[^a-zA-Z0-9_-]+")
# Request media types in order of preference.
_PREFERRED_MEDIA_TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain",
    "application/octet-stream",
)
# Schema keywords that are copied unchanged. `nullable` is not among them: it exists in
# OpenAPI 3.0 only, and strict validators refuse it.
_COPIED_KEYWORDS = frozenset(
    {
        "type",
        "enum",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "default",
        "const",
        "uniqueItems",
    }
)


class DescriptionError(ToolError):
    """The document is not a readable OpenAPI or Swagger description."""

    code = "invalid_description"


class ParameterLocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The location of one argument in the HTTP request, and its serialisation style
    there."""

    name: str
    """Name in the HTTP request, which may differ from the argument's name."""
    where: str
    """`path`, `query`, `header`, `cookie`, `body` (one field of the body) or `whole`
    (the complete body)."""
    style: str = ""
    explode: bool = True
    is_file: bool = False


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation of an API as it is offered to models."""

    name: str
    method: str
    path: str
    description: str = ""
    server: str = ""
    """Base URL of this operation if it differs from the API's; otherwise empty."""
    schema: dict[str, Any] = {}
    """JSON schema of the arguments."""
    places: dict[str, ParameterLocation] = {}
    """Argument name → location in the request."""
    body: str = ""
    """Media type of the request body; empty if there is no body."""
    is_safe: bool = False
    """True if the operation only reads (GET, HEAD, OPTIONS)."""
    auth: list[str] = []
    """Names of accepted security schemes, any one of which suffices; empty if none is
    needed."""


class Scheme(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A security scheme: how a request authenticates."""

    type: str
    """`header`, `query`, `cookie`, `basic`, `bearer` or `oauth2`."""
    name: str = ""
    """Name of the header, query parameter or cookie."""
    token_url: str = ""
    scopes: list[str] = []


class Api(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An API: its operations, server and security schemes."""

    title: str
    description: str = ""
    version: str = ""
    server: str = ""
    operations: list[Operation] = []
    schemes: dict[str, Scheme] = {}
    left_out: list[str] = []
    """Operations that could not be converted, each with the reason."""


def parse(data: bytes | str, *, url: str = "") -> Api:
    """Parse an OpenAPI 3 or Swagger 2 document, as JSON or YAML.

    `url` is the document's address; relative server URLs are resolved against it. An
    operation that cannot be converted is listed in `left_out`. Raises DescriptionError
    if the document is unreadable or has no usable operation.
    """
    document = _load_document(data)
    # A ChatGPT plugin manifest only points to its OpenAPI document.
    if "api" in document and "schema_version" in document:
        raise DescriptionError(
            "The document is a plugin manifest; its API description is at"
            f" {document['api'].get('url')}"
        )
    if str(document.get("swagger", "")).startswith("2"):
        return _ApiParser(document, url, is_old=True).api()
    if not str(document.get("openapi", "")).startswith("3"):
        raise DescriptionError(
            "Not an OpenAPI 3 or Swagger 2 document: expected 'openapi: 3…' or"
            " 'swagger: 2.0'"
        )
    return _ApiParser(document, url, is_old=False).api()


def manifest_url(data: bytes | str) -> str:
    """Return the URL of the API description in a plugin manifest, or "" if the data is
    not a manifest."""
    try:
        document = _load_document(data)
    except DescriptionError:
        return ""
    api_info = document.get("api")
    return (
        str(api_info.get("url") or "")
        if is_mapping(api_info) and "schema_version" in document
        else ""
    )


def _load_document(data: bytes | str) -> dict[str, Any]:
    """Decode an API description, JSON or YAML, of limited size.

    Raises DescriptionError if it is too large, is neither of the two, expands too far
    by YAML aliases, or is not an object.
    """
    if len(data) > MAX_BYTES:
        raise DescriptionError(
            f"API description too large: {len(data) >> 20} MB, maximum"
            f" {MAX_BYTES >> 20} MB"
        )
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    parsed: Any
    # JSON is tried first: it is much faster to decode, and most descriptions are JSON.
    try:
        parsed = msgspec.json.decode(text) if text.lstrip()[:1] == "{" else None
    except msgspec.DecodeError:
        parsed = None
    if parsed is None:
        try:
            parsed = yaml.load(text, Loader=FiniteLoader)  # noqa: S506
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise DescriptionError(
                f"The description is neither JSON nor YAML: {str(error)[:200]}"
            ) from error
        # JSON has no aliases, so only YAML can expand.
        _check_size(parsed)
    if not is_object(parsed):
        raise DescriptionError("The description must be an object")
    return parsed


def _check_size(document: Any) -> None:
    """Raise DescriptionError if YAML aliases expand the document beyond the node limit.

    The expanded size counts every alias as a copy, because later steps walk it that way
    ("billion laughs").
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        """Return the number of nodes of a value after alias expansion, capped at the
        limit."""
        if not is_object(value) and not is_array(value):
            return 1
        if (cached_size := sizes.get(id(value))) is not None:
            return cached_size
        # The limit is stored before the children are counted, so that a cycle ends at
        # once with a size over the limit.
        sizes[id(value)] = _MAX_NODES
        inner = value.values() if is_object(value) else value
        sizes[id(value)] = total = min(
            1 + sum(size(child) for child in inner), _MAX_NODES
        )
        return total

    try:
        is_small = size(document) < _MAX_NODES
    # Very deep nesting is treated like excessive size.
    except RecursionError:
        is_small = False
    if not is_small:
        raise DescriptionError(
            "The YAML description is circular, nested too deeply, or expands to more"
            f" than {_MAX_NODES:,} values"
        )


class _SchemaInliner:
    """Copies the schemas of one operation with their references inlined.

    All copies share one budget of nodes. A recursive reference becomes a plain object;
    whatever exceeds the budget becomes an empty schema.
    """

    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        self._resolve = resolve
        self._remaining_nodes = _MAX_SCHEMA_NODES

    def inline(self, value: Any, open_refs: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the schema without references; empty if `value` is not a schema.

        `open_refs` are the references that are being expanded around this schema.
        """
        if not is_mapping(value):
            return {}
        reference = value.get("$ref")
        if isinstance(reference, str):
            # Expanding it again would recurse without end.
            if reference in open_refs:
                return {"type": "object"}
            open_refs = (*open_refs, reference)
            value = self._referenced_schema(value)
            if value is None:
                return {}
        self._remaining_nodes -= 1
        if self._remaining_nodes < 0 or len(open_refs) > _MAX_DEPTH * 2:
            return {}
        result = self._with_compositions(_own_keywords(value), value, open_refs)
        self._add_properties(result, value, open_refs)
        if "items" in value or result.get("type") == "array":
            result["items"] = self.inline(value.get("items"), open_refs)
        extra_schema = value.get("additionalProperties")
        if is_mapping(extra_schema) and extra_schema:
            result["additionalProperties"] = self.inline(extra_schema, open_refs)
        return result

    def _referenced_schema(self, value: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the schema that a reference leads to, or None if it leads to none."""
        try:
            target = self._resolve(value)
        except DescriptionError:
            return None
        return target if is_mapping(target) else None

    def _with_compositions(
        self,
        result: dict[str, Any],
        value: Mapping[str, Any],
        open_refs: tuple[str, ...],
    ) -> dict[str, Any]:
        """Return `result` with the schema's compositions: `allOf` is merged into it,
        `oneOf` and `anyOf` become `anyOf`."""
        for name in ("allOf", "oneOf", "anyOf"):
            subschemas = value.get(name)
            if not is_array(subschemas) or not subschemas:
                continue
            inlined = [
                self.inline(subschema, open_refs) for subschema in subschemas[:10]
            ]
            if name == "allOf" or len(inlined) == 1:
                result = _merge_schemas(result, inlined)
            else:
                result["anyOf"] = inlined
        return result

    def _add_properties(
        self,
        result: dict[str, Any],
        value: Mapping[str, Any],
        open_refs: tuple[str, ...],
    ) -> None:
        """Add the schema's own properties, and the names of the required ones."""
        if isinstance(value.get("properties"), Mapping):
            own_properties = {
                str(name): self.inline(property_schema, open_refs)
                for name, property_schema in value["properties"].items()
                if not _is_read_only(property_schema)
            }
            result["properties"] = {**result.get("properties", {}), **own_properties}
            result.setdefault("type", "object")
        if isinstance(value.get("required"), list):
            # Validators accept names in `required` that have no property, but models
            # get confused by them.
            declared_properties = result.get("properties", {})
            result["required"] = [
                str(required_name)
                for required_name in value["required"]
                if str(required_name) in declared_properties
            ]


def _own_keywords(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a schema that hold no schemas themselves."""
    result = {
        name: value[name]
        for name in _COPIED_KEYWORDS
        if name in value and _is_json(value[name])
    }
    if isinstance(value.get("type"), list):
        result["type"] = [str(type_name) for type_name in value["type"]]
    if value.get("description"):
        result["description"] = _truncate_text(value["description"], 200)
    # Patterns of another regular expression dialect are dropped.
    if not _is_pattern(result.get("pattern", "")):
        del result["pattern"]
    return result


def _is_read_only(property_schema: Any) -> bool:
    """Return whether a property appears in responses only, so is not an argument."""
    return is_mapping(property_schema) and bool(property_schema.get("readOnly"))


@dataclass(slots=True)
class _OperationBuilder:
    """The arguments and schema of one operation while it is being built."""

    schemas: _SchemaInliner
    properties: dict[str, Any] = field(default_factory=dict[str, Any])
    required: list[str] = field(default_factory=list[str])
    locations: dict[str, ParameterLocation] = field(
        default_factory=dict[str, ParameterLocation]
    )
    body: str = ""
    """Media type of the request body; empty if there is no body."""

    def add(
        self, location: ParameterLocation, schema: Mapping[str, Any], *, required: bool
    ) -> None:
        """Add one argument. A name that is already used gets its location as a suffix,
        and a number if necessary."""
        base = name = (
            _UNSAFE_NAME_CHARS.sub("_", location.name).strip("_")[:60] or location.where
        )
        # One flat namespace of arguments: a query and a header parameter may share a
        # name.
        count = 1
        while name in self.locations:
            # The location alone tells two apart; more of them need a number.
            suffix = (
                f"_{location.where}" if count == 1 else f"_{location.where}_{count}"
            )
            name = base[: 60 - len(suffix)] + suffix
            count += 1
        self.locations[name] = location
        self.properties[name] = dict(schema)
        if required:
            self.required.append(name)


class _ApiParser:
    def __init__(self, document: Mapping[str, Any], url: str, *, is_old: bool) -> None:
        self._document = document
        self._url = url
        self._is_old = is_old
        self._left_out: list[str] = []

    def api(self) -> Api:
        """Return the parsed API. Raises DescriptionError if no operation could be
        converted."""
        info = _as_mapping(self._document.get("info"))
        operations: list[Operation] = []
        names: set[str] = set()
        for path, method, entry, shared in self._entries():
            if len(operations) >= _MAX_OPERATIONS:
                self._left_out.append(f"More than {_MAX_OPERATIONS:,} operations")
                break
            try:
                operations.append(self._operation(path, method, entry, shared, names))
            # An invalid operation is skipped: the others remain usable.
            except (
                DescriptionError,
                TypeError,
                ValueError,
                KeyError,
                AttributeError,
                RecursionError,
            ) as error:
                self._left_out.append(f"{method.upper()} {path}: {error}")
        if not operations:
            reason = f": {self._left_out[0]}" if self._left_out else ""
            raise DescriptionError(f"The description has no operations{reason}")
        return Api(
            title=str(info.get("title") or "api"),
            description=_truncate_text(info.get("description")),
            version=str(info.get("version") or ""),
            server=self._server_url(self._document),
            operations=operations,
            # The list is shown to users, so it is shortened.
            schemes=self._security_schemes(),
            left_out=self._left_out[:100],
        )

    def _entries(self) -> Iterator[tuple[str, str, Mapping[str, Any], Sequence[Any]]]:
        """Yield (path, method, operation, shared parameters) of the document's `paths`.

        An operation without `servers` gets those of its path item. Raises
        DescriptionError if a path item's reference cannot be resolved.
        """
        for path, item in _as_mapping(self._document.get("paths")).items():
            item = self._resolve(item)
            if not is_mapping(item):
                continue
            shared = item.get("parameters") or ()
            # Operations inherit the path item's parameters and servers.
            for method in _METHODS:
                if is_mapping(entry := item.get(method)):
                    server = item.get("servers")
                    yield (
                        str(path),
                        method,
                        {**({"servers": server} if server else {}), **entry},
                        shared,
                    )

    # references

    def _resolve(self, value: Any) -> Any:
        """Follow `$ref` until a value without one is reached.

        Raises DescriptionError for cyclic, dangling and external references.
        """
        visited_refs: set[str] = set()
        while is_mapping(value) and isinstance(reference := value.get("$ref"), str):
            if reference in visited_refs:
                raise DescriptionError(f"Circular $ref {reference[:100]!r}")
            visited_refs.add(reference)
            if not reference.startswith("#/"):
                raise DescriptionError(
                    f"External $ref {reference[:100]!r} is not supported; expected"
                    " '#/…'"
                )
            value = self._pointer_target(reference)
        return value

    def _pointer_target(self, reference: str) -> Any:
        """Return the value that `#/…` points to. Raises DescriptionError if there is
        none."""
        target: Any = self._document
        for step in reference[2:].split("/"):
            # JSON Pointer escapes (RFC 6901); some generators also percent-encode
            # braces.
            step = (
                step.replace("~1", "/")
                .replace("~0", "~")
                .replace("%7B", "{")
                .replace("%7D", "}")
            )
            index = whole_number(step) if is_array(target) else None
            if index is not None and index < len(target):
                target = target[index]
            elif is_mapping(target) and step in target:
                target = target[step]
            else:
                raise DescriptionError(f"Unresolved $ref {reference[:100]!r}")
        return target

    # operations

    def _operation(
        self,
        path: str,
        method: str,
        entry: Mapping[str, Any],
        shared: Sequence[Any],
        names: set[str],
    ) -> Operation:
        """Convert one operation of the document.

        `shared` are the parameters of its path, `names` the operation names used so
        far, to which its own is added. Raises DescriptionError if it cannot be
        converted.
        """
        making = _OperationBuilder(_SchemaInliner(self._resolve))
        self._add_arguments(making, entry, shared)
        _add_undeclared_path_parameters(making, path)
        description = _operation_description(entry)
        return Operation(
            # Without an `operationId`, the name is derived from the path and the
            # method.
            name=_unique_name(entry.get("operationId") or f"{path}_{method}", names),
            method=method.upper(),
            path=path,
            description=description or f"{method.upper()} {path}",
            server=self._server_url(entry) if entry.get("servers") else "",
            schema={
                "type": "object",
                "properties": making.properties,
                "required": making.required,
            },
            places=making.locations,
            body=making.body,
            is_safe=method in ("get", "head", "options"),
            auth=self._accepted_schemes(entry),
        )

    def _add_arguments(
        self,
        making: _OperationBuilder,
        entry: Mapping[str, Any],
        shared: Sequence[Any],
    ) -> None:
        """Add the parameters and the body fields of an operation.

        Raises DescriptionError for a parameter with an unknown location.
        """
        form_fields: list[Mapping[str, Any]] = []
        for parameter in self._merged_parameters(entry, shared):
            # Swagger 2 puts the body among the parameters; OpenAPI 3 has `requestBody`.
            match parameter["in"]:
                case "body":
                    making.body = "application/json"
                    schema = self._resolve(parameter.get("schema") or {})
                    self._add_body_fields(making, schema, parameter, making.body)
                case "formData":
                    form_fields.append(parameter)
                case "path" | "query" | "header" | "cookie":
                    self._add_parameter(making, parameter)
                case other:
                    raise DescriptionError(
                        f"Parameter {parameter['name']!r}: unknown location {other!r};"
                        " expected path, query, header, cookie, body or formData"
                    )
        if form_fields:
            self._add_form(making, form_fields)
        elif "requestBody" in entry:
            request_body = self._resolve(entry["requestBody"])
            making.body = self._add_request_body(making, request_body)

    def _merged_parameters(
        self, entry: Mapping[str, Any], shared: Sequence[Any]
    ) -> list[Mapping[str, Any]]:
        """Return the parameters of an operation and those that its path shares.

        Parameters of the operation override those of the path with the same name and
        location.
        """
        parameters_by_key: dict[tuple[str, str], Mapping[str, Any]] = {}
        for parameter_entry in [*shared, *(entry.get("parameters") or ())]:
            parameter = self._resolve(parameter_entry)
            parameters_by_key[str(parameter["name"]), str(parameter["in"])] = parameter
        return list(parameters_by_key.values())

    def _add_parameter(
        self, making: _OperationBuilder, parameter: Mapping[str, Any]
    ) -> None:
        """Add a path, query, header or cookie parameter as an argument.

        Style and `explode` follow OpenAPI's defaults; Swagger 2's `collectionFormat` is
        translated. A path parameter is always required.
        """
        where = str(parameter["in"])
        schema, style = self._schema_and_style(making, parameter, where)
        explode = parameter.get("explode")
        # In Swagger 2 the parameter itself is the schema, so its own fields are removed
        # from it.
        if self._is_old:
            schema = {
                name: value
                for name, value in schema.items()
                if name not in ("required", "in")
            }
            explode = parameter.get("collectionFormat") == "multi"
        if parameter.get("description"):
            schema["description"] = _truncate_text(parameter["description"], 300)
        # OpenAPI's default: only the form style is exploded.
        is_exploded = bool(explode) if explode is not None else style in ("form", "")
        making.add(
            ParameterLocation(
                name=str(parameter["name"]),
                where=where,
                style=style,
                explode=is_exploded,
            ),
            schema,
            required=where == "path" or bool(parameter.get("required")),
        )

    def _schema_and_style(
        self, making: _OperationBuilder, parameter: Mapping[str, Any], where: str
    ) -> tuple[dict[str, Any], str]:
        """Return the schema of a parameter and its serialisation style."""
        # A parameter with `content` is serialised with that media type instead of a
        # style.
        if "content" in parameter:
            content = _as_mapping(parameter["content"])
            media_object = _as_mapping(next(iter(content.values()), None))
            return making.schemas.inline(media_object.get("schema")), "json"
        declaration = parameter if self._is_old else parameter.get("schema")
        return making.schemas.inline(declaration), self._style(parameter, where)

    def _style(self, parameter: Mapping[str, Any], where: str) -> str:
        """Return the serialisation style of a parameter, in OpenAPI 3's terms."""
        if self._is_old:
            # Swagger 2 collection formats mapped to OpenAPI 3 styles.
            return {
                "ssv": "spaceDelimited",
                "pipes": "pipeDelimited",
                "tsv": "tabDelimited",
            }.get(
                str(parameter.get("collectionFormat")),
                "form" if where == "query" else "simple",
            )
        return str(
            parameter.get("style")
            or ("form" if where in ("query", "cookie") else "simple")
        )

    def _add_form(
        self, making: _OperationBuilder, form_fields: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the form fields of Swagger 2, which together form one body. A file field
        forces multipart."""
        is_multipart = any(
            form_field.get("type") == "file" for form_field in form_fields
        )
        making.body = (
            "multipart/form-data"
            if is_multipart
            else "application/x-www-form-urlencoded"
        )
        for form_field in form_fields:
            self._add_form_field(making, form_field)

    def _add_form_field(
        self, making: _OperationBuilder, form_field: Mapping[str, Any]
    ) -> None:
        """Add a form field of Swagger 2 (`in: formData`) as an argument of the body."""
        is_file = form_field.get("type") == "file"
        schema = {"type": "string"} if is_file else making.schemas.inline(form_field)
        schema.pop("required", None)
        if form_field.get("description"):
            schema["description"] = _truncate_text(form_field["description"], 300)
        making.add(
            ParameterLocation(
                name=str(form_field["name"]), where="body", is_file=is_file
            ),
            schema,
            required=bool(form_field.get("required")),
        )

    def _add_request_body(self, making: _OperationBuilder, request_body: Any) -> str:
        """Add the arguments of an OpenAPI 3 request body and return its media type.

        Of several media types the preferred one is used: JSON, then forms, then others.
        Empty if the body declares no content.
        """
        content = _as_mapping(_as_mapping(request_body).get("content"))
        if not content:
            return ""
        # Media type parameters such as `charset` are ignored.
        by_kind = {
            str(name).partition(";")[0].strip().lower(): media_object
            for name, media_object in content.items()
        }
        media_type = next(
            (candidate for candidate in _PREFERRED_MEDIA_TYPES if candidate in by_kind),
            None,
        )
        media_type = (
            media_type
            or next(
                (
                    candidate
                    for candidate in by_kind
                    if candidate.endswith(("+json", "/json"))
                ),
                None,
            )
            or next(iter(by_kind))
        )
        schema = self._resolve(_as_mapping(by_kind[media_type]).get("schema") or {})
        self._add_body_fields(making, schema, request_body, media_type)
        return media_type if media_type != "*/*" else "application/json"

    def _add_body_fields(
        self,
        making: _OperationBuilder,
        schema: Any,
        declaration: Mapping[str, Any],
        media_type: str,
    ) -> None:
        """Add the fields of a JSON or form body as separate arguments, or the complete
        body as one argument `body`."""
        # These media types have named fields.
        is_fielded = "json" in media_type or media_type in (
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "*/*",
        )
        read = making.schemas.inline(schema)
        if not is_fielded or not read.get("properties") or "anyOf" in read:
            read = read or ({} if "json" in media_type else {"type": "string"})
            if declaration.get("description"):
                read["description"] = _truncate_text(declaration["description"], 300)
            is_file = media_type == "application/octet-stream"
            making.add(
                ParameterLocation(name="body", where="whole", is_file=is_file),
                read,
                required=bool(declaration.get("required")),
            )
            return
        # Fields are required only if the body itself is required.
        required = (
            set(read.get("required") or ())
            if declaration.get("required", True)
            else set[str]()
        )
        for name, property_schema in read["properties"].items():
            is_file = property_schema.get("format") == "binary" or (
                property_schema.get("type") == "array"
                and _as_mapping(property_schema.get("items")).get("format") == "binary"
            )
            making.add(
                ParameterLocation(name=name, where="body", is_file=is_file),
                property_schema,
                required=name in required,
            )

    # servers and security

    def _server_url(self, owner: Mapping[str, Any]) -> str:
        """Return the base URL that the document or an operation declares; "" if it is
        not an HTTP URL."""
        if self._is_old:
            return self._swagger_server_url()
        servers = owner.get("servers") or self._document.get("servers") or ()
        first = _as_mapping(servers[0] if is_array(servers) and servers else None)
        url = str(first.get("url") or "")
        # Server variables are replaced by their defaults.
        for name, variable in _as_mapping(first.get("variables")).items():
            url = url.replace(
                "{" + str(name) + "}", str(_as_mapping(variable).get("default") or "")
            )
        url = join(self._url, url)
        return (
            url.rstrip("/") if url.lower().startswith(("http://", "https://")) else ""
        )

    def _swagger_server_url(self) -> str:
        """Return the base URL of a Swagger 2 document.

        It is built from `schemes`, `host` and `basePath`. HTTPS is preferred. Without a
        host, the path is resolved against the document's own address.
        """
        host = str(self._document.get("host") or "")
        schemes = self._document.get("schemes") or ["https"]
        scheme = "https" if "https" in schemes else str(schemes[0])
        base = str(self._document.get("basePath") or "")
        # Without a host, Swagger 2 refers to the host that served the document.
        url = f"{scheme}://{host}{base}" if host else join(self._url, base)
        return url.rstrip("/")

    def _security_schemes(self) -> dict[str, Scheme]:
        """Return the document's security schemes by name.

        Those that are not supported or cannot be resolved are left out.
        """
        owner = (
            self._document
            if self._is_old
            else _as_mapping(self._document.get("components"))
        )
        listed = _as_mapping(
            owner.get("securityDefinitions" if self._is_old else "securitySchemes")
        )
        schemes_by_name: dict[str, Scheme] = {}
        for name, raw_scheme in listed.items():
            try:
                scheme = _parse_scheme(_as_mapping(self._resolve(raw_scheme)))
            except DescriptionError:
                continue
            if scheme is not None:
                schemes_by_name[str(name)] = scheme
        return schemes_by_name

    def _accepted_schemes(self, entry: Mapping[str, Any]) -> list[str]:
        """Return the names of the security schemes that an operation accepts.

        Its own `security` overrides the document's. Empty if it needs none.
        """
        # An operation's `security` overrides the document's.
        requirements = entry.get("security", self._document.get("security")) or ()
        scheme_names: list[str] = []
        for requirement in requirements:
            if is_mapping(requirement):
                scheme_names += map(str, requirement)
        return scheme_names


def _add_undeclared_path_parameters(making: _OperationBuilder, path: str) -> None:
    """Add the placeholders of a path that the document does not declare as parameters."""
    for name in re.findall(r"\{([^}]+)\}", path):
        is_declared = any(
            location.where == "path" and location.name == name
            for location in making.locations.values()
        )
        if not is_declared:
            making.add(
                ParameterLocation(name=name, where="path"),
                {"type": "string"},
                required=True,
            )


def _operation_description(entry: Mapping[str, Any]) -> str:
    """Return summary and description of an operation as one text.

    A summary with which the description begins is not repeated.
    """
    summary = _truncate_text(entry.get("summary"))
    details = _truncate_text(entry.get("description"))
    if not details or details.casefold().startswith(summary.rstrip(".").casefold()):
        return details or summary
    # A title has no full stop of its own, a sentence has.
    end = "" if summary.endswith(_SENTENCE_ENDS) else "."
    return f"{summary}{end} {details}"


def _parse_scheme(definition: Mapping[str, Any]) -> Scheme | None:
    """Return a security scheme of OpenAPI 3 or Swagger 2; None if it is not supported.

    An OAuth 2 scheme keeps its client credentials flow only; OpenID Connect counts as a
    bearer token.
    """
    match definition.get("type"):
        case "apiKey" if definition.get("in") in ("header", "query", "cookie"):
            return Scheme(
                type=str(definition["in"]), name=str(definition.get("name") or "")
            )
        case "http" if str(definition.get("scheme", "")).lower() in ("basic", "bearer"):
            return Scheme(type=str(definition["scheme"]).lower())
        case "basic":
            return Scheme(type="basic")
        case "oauth2":
            flows = _as_mapping(definition.get("flows")) or {
                str(definition.get("flow")): definition
            }
            # Only the client credentials flow works without a user's browser.
            flow = _as_mapping(
                flows.get("clientCredentials") or flows.get("application")
            )
            return Scheme(
                type="oauth2",
                token_url=str(flow.get("tokenUrl") or ""),
                scopes=list(_as_mapping(flow.get("scopes"))),
            )
        case "openIdConnect":
            return Scheme(type="bearer")
        case _:
            return None


def _merge_schemas(
    schema: dict[str, Any], parts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Merge the subschemas of an `allOf` into one schema. Properties and `required` are
    united; otherwise the first wins."""
    merged = dict(schema)
    for subschema in parts:
        for name, value in subschema.items():
            if name == "properties":
                merged["properties"] = {**merged.get("properties", {}), **value}
            elif name == "required":
                merged["required"] = [
                    *merged.get("required", []),
                    *(
                        required_name
                        for required_name in value
                        if required_name not in merged.get("required", [])
                    ),
                ]
            else:
                merged.setdefault(name, value)
    return merged


def _unique_name(preferred_name: Any, used_names: set[str]) -> str:
    """Return a unique operation name that every model API accepts: at most 60
    characters of [a-zA-Z0-9_-]."""
    base = (
        _UNSAFE_NAME_CHARS.sub("_", str(preferred_name)).strip("_")[:60] or "operation"
    )
    name, count = base, 1
    # The base is shortened so that the suffix fits within 60 characters.
    while name in used_names:
        count += 1
        name = f"{base[:56]}_{count}"
    used_names.add(name)
    return name


def _as_mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is an object, otherwise an empty one."""
    return value if is_mapping(value) else {}


def _truncate_text(value: Any, max_length: int = _MAX_TEXT_CHARS) -> str:
    """Return a text on one line, shortened: models read all descriptions."""
    text = " ".join(str(value or "").split())
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def _is_pattern(value: Any) -> bool:
    """Return whether a value is a regular expression that can be used here."""
    if not isinstance(value, str):
        return False
    try:
        compile_pattern(value)
    except PatternError:
        return False
    return True


def _is_json(value: Any) -> bool:
    """Return whether the value can be written as JSON of moderate size. YAML also has
    dates and binary values."""
    try:
        return len(json.dumps(value)) < 20_000
    except (TypeError, ValueError, RecursionError):
        return False
