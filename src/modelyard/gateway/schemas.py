"""Helpers for hand-written JSON schemas, used for other vendors' formats whose field
names are fixed."""

from modelyard.models.types import JSON

TEXT: JSON = {"type": "string"}
NUMBER: JSON = {"type": "number"}
INTEGER: JSON = {"type": "integer"}
FLAG: JSON = {"type": "boolean"}
OBJECT: JSON = {"type": "object"}
ANYTHING: JSON = {}


def string_enum(*values: str) -> JSON:
    """Return a schema that accepts exactly these strings."""
    return {"enum": list(values)}


def list_of(items: JSON) -> JSON:
    """Return the schema of a list of any length."""
    return {"type": "array", "items": items}


def or_null(schema: JSON) -> JSON:
    """Return a schema that also accepts null."""
    return {"anyOf": [schema, {"type": "null"}]}


def any_of(*schemas: JSON) -> JSON:
    """Return a schema that accepts what any of the schemas accepts."""
    return {"anyOf": list(schemas)}


def object_schema(needed: dict[str, JSON] | None = None, **optional: JSON) -> JSON:
    """Return an object schema with the required fields of `needed` and optional fields.
    Unknown fields are accepted."""
    needed = needed or {}
    schema: JSON = {"type": "object", "properties": {**needed, **optional}}
    # An empty `required` list is left out: it says nothing.
    return {**schema, "required": list(needed)} if needed else schema
