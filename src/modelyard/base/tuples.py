"""Named tuples that are made for every call."""

from typing import Any

new_tuple: Any = tuple.__new__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
"""(class, values) → a named tuple, without the Python function that the class calls to
make one. The values are in the order of the fields, and all are given."""
