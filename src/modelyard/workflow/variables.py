"""What flows through a workflow: JSON values and files, their types, how they print, and the pool that holds them.

Values are never changed in place: whoever writes puts a new one, so a copy of the pool is two levels of dictionaries.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from modelyard.base.errors import ModelyardError

SYSTEM, ENVIRONMENT, CONVERSATION, RAG = "sys", "env", "conversation", "rag"
PSEUDO = frozenset({SYSTEM, ENVIRONMENT, CONVERSATION, RAG})
"""Names that stand where a node's id does, and are none."""

Selector = Sequence[str]
FILE_MARK = "__dify__file__"


class WorkflowError(ModelyardError):
    """A graph could not be built or finished."""

    code = "workflow_error"


class Missing:
    """What a selector to nowhere gives."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


class Secret(str):
    """An environment variable's value that must not be shown: it prints as itself in templates alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked(self))


def masked(text: str) -> str:
    """The first six and the last two signs; nothing of a short one."""
    return "*" * 20 if len(text) <= 8 else f"{text[:6]}{'*' * 12}{text[-2:]}"


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file: one that the tenant has here, by `related_id`, or one that lies elsewhere, by `remote_url`."""

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
    """Bytes; -1 where nobody knows."""
    url: str = ""
    """Where it can be fetched for a while."""

    @property
    def address(self) -> str:
        return self.remote_url or self.url

    def attribute(self, name: str) -> Any:
        """One of the words that selectors and conditions know."""
        match name:
            case "name":
                return self.filename
            case "url":
                return self.address
            case "type" | "size" | "mime_type" | "transfer_method" | "extension" | "related_id":
                return getattr(self, name)
            case _:
                return MISSING

    def to_object(self) -> dict[str, Any]:
        return {
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
    """A file from what `to_object` made."""
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


# ---------------------------------------------------------------------------------------------- types

ARRAYS = frozenset({
    "array", "array[any]", "array[string]", "array[number]", "array[integer]", "array[object]", "array[boolean]",
    "array[file]",
})  # fmt: skip


def type_of(value: Any) -> str:
    """Its name: none, string, secret, integer, float, boolean, object, file, or array[…]."""
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
            raise WorkflowError(f"a value of type {type(value).__name__!r} cannot be a variable")


def _type_of_array(values: Sequence[Any]) -> str:
    kinds = {type_of(one) for one in values}
    if not kinds:
        return "array[any]"
    if kinds <= {"integer", "float"}:
        return "array[number]"
    if len(kinds) > 1:
        return "array[any]"
    kind = kinds.pop()
    return f"array[{kind}]" if kind in ("string", "object", "boolean", "file") else "array[any]"


def fits(value: Any, declared: str) -> bool:
    """Whether a value may stand where a type was declared."""
    kind = type_of(value)
    match declared:
        case "any" | "":
            return True
        case "number":
            return kind in ("integer", "float")
        case "string" | "secret":
            return kind in ("string", "secret")
        case "array" | "array[any]":
            return kind.startswith("array")
        case _:
            return kind == declared or (declared in ARRAYS and isinstance(value, list) and not value)


def zero_of(declared: str) -> Any:
    """What a cleared variable of a type holds."""
    if declared in ARRAYS:
        return []
    return {"number": 0, "integer": 0, "float": 0.0, "boolean": False, "object": {}, "file": None}.get(declared, "")


# ---------------------------------------------------------------------------------------------- printing


def to_text(value: Any) -> str:
    """As it stands in a template."""
    match value:
        case None | File() | Missing():
            return ""
        case str():
            return value if type(value) is str else str.__str__(value)
        case Mapping():
            return _json(to_object(value))
        case list() | tuple():
            return _array_text(value)
        case _:
            return str(value)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _array_text(values: Sequence[Any]) -> str:
    kind = _type_of_array(values)
    if not values or kind == "array[file]":
        return ""
    if kind == "array[string]":
        return _json(list(values))
    return str(to_object(values))  # as Python prints it: apps depend on it


def to_markdown(value: Any) -> str:
    """As it stands in an answer."""
    match value:
        case File():
            link = f"[{value.filename}]({value.address})"
            return f"!{link}" if value.type == "image" else link
        case Mapping():
            return _json(to_object(value), indent=2)
        case list() | tuple():
            if _type_of_array(value) == "array[file]":
                return "\n".join(to_markdown(one) for one in value)
            return "\n".join(f"- {to_text(one)}" for one in value)
        case _:
            return to_text(value)


def to_object(value: Any) -> Any:
    """As JSON: files as objects."""
    match value:
        case File():
            return value.to_object()
        case Mapping():
            return {key: to_object(one) for key, one in value.items()}
        case list() | tuple():
            return [to_object(one) for one in value]
        case Missing():
            return None
        case Secret():
            return str.__str__(value)
        case _:
            return value


def from_object(value: Any) -> Any:
    """The other way: objects that say they are files become files."""
    match value:
        case Mapping():
            if value.get("dify_model_identity") == FILE_MARK:
                return file_of(value)
            return {str(key): from_object(one) for key, one in value.items()}
        case list() | tuple():
            return [from_object(one) for one in value]
        case _:
            return value


def size_of(value: Any, most: int) -> int:
    """About how many bytes a value takes; counting ends once that is more than `most`."""
    total = 0
    todo = [value]
    while todo and total <= most:
        one = todo.pop()
        total += 8
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping):
            todo.extend(one.values())
            total += sum(len(key) for key in one)
        elif isinstance(one, list | tuple):
            todo.extend(one)
    return total


# ---------------------------------------------------------------------------------------------- the pool

_MOST_BYTES = 16 * 1024 * 1024


class VariablePool:
    """Node id → name → value. `declared` holds the types of variables that have one of their own."""

    __slots__ = ("_nodes", "declared")

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._nodes: dict[str, dict[str, Any]] = {name: dict(values) for name, values in (nodes or {}).items()}
        self._nodes.setdefault(CONVERSATION, {})
        self.declared: dict[tuple[str, str], str] = {}

    def child(self) -> "VariablePool":
        """A copy whose writes stay in it; those to conversation variables are seen here too."""
        copy = VariablePool()
        shared = self._nodes[CONVERSATION]
        copy._nodes = {name: dict(values) for name, values in self._nodes.items()}
        copy._nodes[CONVERSATION] = shared
        copy.declared = dict(self.declared)
        return copy

    def apart(self) -> "VariablePool":
        """A copy of which nothing is seen here."""
        copy = self.child()
        copy._nodes[CONVERSATION] = dict(self._nodes[CONVERSATION])
        return copy

    def put(self, node: str, name: str, value: Any) -> None:
        """Raises WorkflowError where the value is too large."""
        if size_of(value, _MOST_BYTES) > _MOST_BYTES:
            raise WorkflowError(f"variable {node}.{name} is larger than {_MOST_BYTES >> 20} MB")
        here = self._nodes.get(node)
        if here is None:
            here = self._nodes[node] = {}
        here[name] = value

    def put_all(self, node: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.put(node, name, value)

    def declare(self, node: str, name: str, kind: str) -> None:
        self.declared[node, name] = kind

    def get(self, selector: Selector) -> Any:
        """The value, or MISSING. Further parts walk into objects and files; what an object lacks is None."""
        if len(selector) < 2:
            return MISSING
        here = self._nodes.get(selector[0])
        if here is None or selector[1] not in here:
            return MISSING
        value = here[selector[1]]
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
        """The value, or None."""
        found = self.get(selector)
        return None if found is MISSING else found

    def has(self, selector: Selector) -> bool:
        return self.get(selector) is not MISSING

    def clear(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._nodes.pop(node, None)

    def of(self, node: str) -> Mapping[str, Any]:
        return self._nodes.get(node, {})

    def items(self) -> Iterator[tuple[str, str, Any]]:
        for node, values in self._nodes.items():
            for name, value in values.items():
                yield node, name, value
