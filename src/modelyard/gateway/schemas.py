"""Words for JSON schemas by hand: those of other vendors' formats, whose fields are not ours to name."""

from modelyard.models.types import JSON

TEXT: JSON = {"type": "string"}
NUMBER: JSON = {"type": "number"}
INTEGER: JSON = {"type": "integer"}
FLAG: JSON = {"type": "boolean"}
OBJECT: JSON = {"type": "object"}
ANYTHING: JSON = {}


def one_of(*values: str) -> JSON:
    """One of these words."""
    return {"enum": list(values)}


def list_of(items: JSON) -> JSON:
    """A list, of any length."""
    return {"type": "array", "items": items}


def or_null(schema: JSON) -> JSON:
    """What a schema takes, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def either(*schemas: JSON) -> JSON:
    """What any of the schemas takes."""
    return {"anyOf": list(schemas)}


def thing(needed: dict[str, JSON] | None = None, **optional: JSON) -> JSON:
    """An object that has the fields of `needed`, and may have those of `optional` and others."""
    needed = needed or {}
    schema: JSON = {"type": "object", "properties": {**needed, **optional}}
    return {**schema, "required": list(needed)} if needed else schema
