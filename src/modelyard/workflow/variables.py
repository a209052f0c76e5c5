"""Values of a workflow (JSON and files), their types, their text forms, and the pool of
variables.

Values are never changed in place; writers put a new value. A copy of the pool therefore
copies only two levels of dictionaries.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from modelyard.base.errors import ModelyardError

SYSTEM, ENVIRONMENT, CONVERSATION, RAG = "sys", "env", "conversation", "rag"
NAMESPACES = frozenset({SYSTEM, ENVIRONMENT, CONVERSATION, RAG})
"""Namespaces that are used in selectors like node ids."""

Selector = Sequence[str]
FILE_MARK = "__dify__file__"


class WorkflowError(ModelyardError):
    """A graph could not be built or a run could not be executed."""

    code = "workflow_error"


class Missing:
    """Type of MISSING, the value of a selector that leads nowhere. It is false and
    differs from None."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


class Secret(str):
    """A secret environment variable. Its text appears only in rendered templates;
    elsewhere it is masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        # `repr` is used in logs and error messages.
        return repr(masked(self))


def masked(text: str) -> str:
    """Return a masked secret: its first six and last two characters, nothing of a short
    one."""
    # A fixed number of asterisks does not reveal the length.
    return "*" * 20 if len(text) <= 8 else f"{text[:6]}{'*' * 12}{text[-2:]}"


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file: stored for the tenant (`related_id`) or remote (`remote_url`)."""

    type: str
    """image, document, audio, video or custom."""
    transfer_method: str = "local_file"
    """remote_url, local_file or tool_file."""
    remote_url: str = ""
    related_id: str = ""
    filename: str = ""
    extension: str = ""
    """With its dot."""
    mime_type: str = ""
    size: int = -1
    """In bytes; -1 if unknown."""
    url: str = ""
    """A URL from which the file can be downloaded for a limited time."""

    @property
    def address(self) -> str:
        """The URL of the file."""
        return self.remote_url or self.url

    def attribute(self, name: str) -> Any:
        """Return the attribute that selectors and conditions name; MISSING if there is
        none."""
        match name:
            case "name":
                return self.filename
            case "url":
                return self.address
            case (
                "type"
                | "size"
                | "mime_type"
                | "transfer_method"
                | "extension"
                | "related_id"
            ):
                return getattr(self, name)
            case _:
                return MISSING

    def to_object(self) -> dict[str, Any]:
        """Return the file as JSON in Dify's format."""
        return {
            # Marks the object as a file, so that `from_object` can restore it.
            "dify_model_identity": FILE_MARK,
            "id": None,
            "type": self.type,
            "transfer_method": self.transfer_method,
            "remote_url": self.remote_url or None,
            "related_id": self.related_id or None,
            "filename": self.filename,
            "extension": self.extension,
            "mime_type": self.mime_type,
            "size": self.size,
            "url": self.address,
        }


def file_of(value: Mapping[str, Any]) -> File:
    """Return the file that `to_object` converted."""
    return File(
        type=str(value.get("type") or "custom"),
        transfer_method=str(value.get("transfer_method") or "local_file"),
        remote_url=str(value.get("remote_url") or ""),
        related_id=str(value.get("related_id") or ""),
        filename=str(value.get("filename") or ""),
        extension=str(value.get("extension") or ""),
        mime_type=str(value.get("mime_type") or ""),
        size=int(value.get("size") if value.get("size") is not None else -1),  # type: ignore[arg-type]
        url=str(value.get("url") or ""),
    )


# -------------------------------------------------------------------------------- types

Value = (
    Mapping[str, Any]
    | list[Any]
    | tuple[Any, ...]
    | str
    | float
    | bool
    | File
    | Missing
    | None
)
"""What a variable may hold, or MISSING."""

ARRAYS = frozenset(
    {
        "array",
        "array[any]",
        "array[string]",
        "array[number]",
        "array[integer]",
        "array[object]",
        "array[boolean]",
        "array[file]",
    }
)


def type_of(value: Value) -> str:
    """Return the type name of a value: none, string, secret, integer, float, boolean,
    object, file or array[…].

    Raises WorkflowError for a value that cannot be a variable.
    """
    # The order matters: Secret is a subclass of `str`, and `bool` of `int`.
    match value:
        case None:
            return "none"
        case Secret():
            return "secret"
        case str():
            return "string"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "float"
        case File():
            return "file"
        case Mapping():
            return "object"
        case list() | tuple():
            return _type_of_array(value)
        case _:
            raise WorkflowError(
                f"A value of type {type(value).__name__!r} cannot be a variable"
            )


def _type_of_array(values: Sequence[Any]) -> str:
    """Return the type name of a list; `array[any]` for an empty or mixed one."""
    kinds = {type_of(value) for value in values}
    if not kinds:
        return "array[any]"
    # Integers and floats may be mixed.
    if kinds <= {"integer", "float"}:
        return "array[number]"
    if len(kinds) > 1:
        return "array[any]"
    element_type = kinds.pop()
    return (
        f"array[{element_type}]"
        if element_type in ("string", "object", "boolean", "file")
        else "array[any]"
    )


def matches_type(value: Any, declared: str) -> bool:
    """Return whether a value may be stored in a variable of the declared type."""
    type_name = type_of(value)
    match declared:
        case "any" | "":
            return True
        case "number":
            return type_name in ("integer", "float")
        case "string" | "secret":
            return type_name in ("string", "secret")
        case "array" | "array[any]":
            return type_name.startswith("array")
        case _:
            # An empty list fits every array type.
            return type_name == declared or (
                declared in ARRAYS and isinstance(value, list) and not value
            )


def default_for_type(declared: str) -> Any:
    """Return the value of a cleared variable of a type."""
    if declared in ARRAYS:
        return []
    defaults: dict[str, Any] = {
        "number": 0,
        "integer": 0,
        "float": 0.0,
        "boolean": False,
        "object": {},
        "file": None,
    }
    return defaults.get(declared, "")


# ----------------------------------------------------------------------------- printing


def to_text(value: Value) -> str:
    """Return the value as text for a template."""
    match value:
        case None | File() | Missing():
            return ""
        case str():
            # A Secret is rendered as plain text here, on purpose.
            return value if type(value) is str else str.__str__(value)
        case Mapping():
            return _json(to_object(value))
        case list() | tuple():
            return _array_text(value)
        case _:
            return str(value)


def _json(value: Any, indent: int | None = None) -> str:
    """Return the value as JSON without escaped characters."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _array_text(values: list[Any] | tuple[Any, ...]) -> str:
    """Return a list as text; empty for files."""
    type_name = _type_of_array(values)
    if not values or type_name == "array[file]":
        return ""
    if type_name == "array[string]":
        return _json(list(values))
    # Python's notation, as in Dify: apps depend on it.
    return str(to_object(values))  # as Python prints it: apps depend on it


def to_markdown(value: Value) -> str:
    """Return the value as Markdown for an answer."""
    match value:
        case File():
            # Images are shown inline, other files as links.
            link = f"[{value.filename}]({value.address})"
            return f"!{link}" if value.type == "image" else link
        case Mapping():
            return _json(to_object(value), indent=2)
        case list() | tuple():
            if _type_of_array(value) == "array[file]":
                return "\n".join(to_markdown(file) for file in value)
            return "\n".join(f"- {to_text(element)}" for element in value)
        case _:
            return to_text(value)


def to_object(value: Value) -> Any:
    """Return the value as JSON; files become objects."""
    match value:
        case File():
            return value.to_object()
        case Mapping():
            return {key: to_object(element) for key, element in value.items()}
        case list() | tuple():
            return [to_object(element) for element in value]
        case Missing():
            return None
        case Secret():
            return str.__str__(value)
        case _:
            return value


def from_object(value: Value) -> Any:
    """Return the value of JSON; file objects become files. The inverse of `to_object`."""
    match value:
        case Mapping():
            # Files are recognised by Dify's marker.
            if value.get("dify_model_identity") == FILE_MARK:
                return file_of(value)
            return {str(key): from_object(element) for key, element in value.items()}
        case list() | tuple():
            return [from_object(element) for element in value]
        case _:
            return value


def size_of(value: Value, max_bytes: int) -> int:
    """Return the approximate size of a value in bytes. Counting stops once it exceeds
    `max_bytes`."""
    total = 0
    # A stack instead of recursion: values may be nested deeply.
    todo: list[Value] = [value]
    while todo and total <= max_bytes:
        current = todo.pop()
        total += 8
        if isinstance(current, str):
            total += len(current)
        elif isinstance(current, Mapping):
            todo.extend(current.values())
            total += sum(len(key) for key in current)
        elif isinstance(current, list | tuple):
            todo.extend(current)
    return total


# ----------------------------------------------------------------------------- the pool

# Values are written to the journal as inputs and outputs of nodes.
_MAX_VALUE_BYTES = 16 * 1024 * 1024


class VariablePool:
    """Variables as node id → name → value. `declared` holds the types of variables with
    a declared type."""

    __slots__ = ("_nodes", "declared")

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._nodes: dict[str, dict[str, Any]] = {
            name: dict(values) for name, values in (nodes or {}).items()
        }
        self._nodes.setdefault(CONVERSATION, {})
        self.declared: dict[tuple[str, str], str] = {}

    def child(self) -> "VariablePool":
        """Return a copy with writes of its own, but with shared conversation variables."""
        copy = VariablePool()
        shared = self._nodes[CONVERSATION]
        copy._nodes = {name: dict(values) for name, values in self._nodes.items()}
        # Shared by reference, so that writes are visible in both pools.
        copy._nodes[CONVERSATION] = shared
        copy.declared = dict(self.declared)
        return copy

    def isolated_copy(self) -> "VariablePool":
        """Return a copy that shares nothing."""
        copy = self.child()
        copy._nodes[CONVERSATION] = dict(self._nodes[CONVERSATION])
        return copy

    def put(self, node: str, name: str, value: Any) -> None:
        """Set a variable. Raises WorkflowError if the value is too large."""
        # Very large values would be copied and stored again and again.
        if size_of(value, _MAX_VALUE_BYTES) > _MAX_VALUE_BYTES:
            problem = f"is larger than {_MAX_VALUE_BYTES >> 20} MB"
            raise WorkflowError(f"Variable {node}.{name} {problem}")
        self._nodes.setdefault(node, {})[name] = value

    def put_all(self, node: str, values: Mapping[str, Any]) -> None:
        """Set several variables of a node. Raises WorkflowError."""
        for name, value in values.items():
            self.put(node, name, value)

    def declare(self, node: str, name: str, type_name: str) -> None:
        """Set the declared type of a variable."""
        self.declared[node, name] = type_name

    def get(self, selector: Selector) -> Any:
        """Return the value of a selector; MISSING if the variable does not exist.

        Further parts lead into objects and files; a missing field of an object is None.
        """
        if len(selector) < 2:
            return MISSING
        node_values = self._nodes.get(selector[0])
        if node_values is None or selector[1] not in node_values:
            return MISSING
        value: Value = node_values[selector[1]]
        # Each further part leads one level deeper.
        for part in selector[2:]:
            if isinstance(value, File):
                value = value.attribute(part)
                if value is MISSING:
                    return MISSING
            elif isinstance(value, Mapping):
                value = value.get(part)
            else:
                return MISSING
        return value

    def value(self, selector: Selector) -> Any:
        """Return the value of a selector; None if it is missing."""
        result = self.get(selector)
        return None if result is MISSING else result

    def has(self, selector: Selector) -> bool:
        """Return whether the selector leads to a value."""
        return self.get(selector) is not MISSING

    def clear(self, nodes: Iterable[str]) -> None:
        """Remove all variables of the nodes."""
        for node in nodes:
            self._nodes.pop(node, None)

    def node_variables(self, node: str) -> Mapping[str, Any]:
        """Return the variables of a node as name → value."""
        return self._nodes.get(node, {})

    def items(self) -> Iterator[tuple[str, str, Any]]:
        """Yield (node id, name, value) of all variables."""
        for node, values in self._nodes.items():
            for name, value in values.items():
                yield node, name, value
