"""Checks of what people submit with a human-input form: texts, options and files.

A file is sent as in all other requests of the service API, by its address or by the id
of an upload:

    {"type": "image", "transfer_method": "remote_url", "url": "https://…"}
    {"type": "image", "transfer_method": "local_file", "upload_file_id": "…"}

Which files a field accepts is decided by the same rules as in start forms and chats.
Uploads of other people are not accepted.

Source: langgenius/dify, graphon's human input node (which values are accepted).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_array
from modelyard.workflow.file_rules import FileRules, rules_of_input
from modelyard.workflow.variables import File


class FileParser(Protocol):
    """Turns a client's file objects into files."""

    async def parse_file(self, value: Any, rules: FileRules) -> File:
        """Return the file. Raises InvokeBadRequestError, and InputError if `rules` do
        not accept it."""
        ...

    async def parse_files(self, values: Sequence[Any], rules: FileRules) -> list[File]:
        """Return several files, like `parse_file`."""
        ...


async def checked_inputs(
    fields: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any], files: FileParser
) -> dict[str, Any]:
    """Return submitted inputs, with files as objects that a run can use.

    Inputs that the form does not have are left out: a run must not receive values that
    nothing has checked. Raises InvokeBadRequestError or InputError for a value that the
    form does not allow.
    """
    names = [(str(field["output_variable_name"]), field) for field in fields]
    return {
        name: await _checked(name, field, inputs[name], files)
        for name, field in names
        if name in inputs
    }


async def _checked(
    name: str, field: Mapping[str, Any], value: Any, files: FileParser
) -> Any:
    """Return one submitted value. Raises InvokeBadRequestError or InputError."""
    # A field that was left empty stays empty.
    if value is None:
        return None
    match field.get("type"):
        case "file":
            return (await files.parse_file(value, rules_of_input(field))).to_object()
        case "file-list":
            if not is_array(value):
                raise InvokeBadRequestError(
                    f"{name!r} must be a list of files", param=name
                )
            parsed = await files.parse_files(value, rules_of_input(field))
            return [file.to_object() for file in parsed]
        case _:
            return _checked_text(name, field, value)


def _checked_text(name: str, field: Mapping[str, Any], value: Any) -> Any:
    """Return a text, a number or a boolean. Raises InvokeBadRequestError for another
    value, and for one that a selection does not offer."""
    # An object could pass for a file of somebody else.
    if not isinstance(value, str | int | float):
        raise InvokeBadRequestError(f"{name!r} must be a text", param=name)
    # Options from a variable may be empty; then any value is accepted.
    options = field.get("options") if field.get("type") == "select" else None
    if is_array(options) and options and value not in options:
        offered = ", ".join(str(option) for option in options)
        raise InvokeBadRequestError(
            f"{name!r} must be one of {offered}, not {str(value)[:40]!r}", param=name
        )
    return value
