"""Checks of what people submit with a form: options of selections, and files.

A file is sent as in all other requests of the service API, by its address or by the id
of an upload:

    {"type": "image", "transfer_method": "remote_url", "url": "https://…"}
    {"type": "image", "transfer_method": "local_file", "upload_file_id": "…"}

Uploads of other people are not accepted.

Source: langgenius/dify, graphon's human input node (which values are accepted).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_array
from modelyard.workflow.variables import File


class FileParser(Protocol):
    """Turns a client's file object into a file."""

    async def parse_file(self, value: Any) -> File:
        """Return the file. Raises InvokeBadRequestError."""
        ...


async def checked_inputs(
    fields: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any], files: FileParser
) -> dict[str, Any]:
    """Return submitted inputs, with files as objects that a run can use.

    Inputs that the form does not have are returned as they are. Raises
    InvokeBadRequestError for a value that the form does not allow.
    """
    checked = dict(inputs)
    for field in fields:
        name = str(field["output_variable_name"])
        # A field that was left empty has its default value, which was checked before.
        if checked.get(name) is None:
            continue
        match field.get("type"):
            case "select":
                _check_option(name, field, checked[name])
            case "file":
                checked[name] = await _file_object(name, field, checked[name], files)
            case "file-list":
                checked[name] = await _file_list(name, field, checked[name], files)
            case _:
                pass
    return checked


def _check_option(name: str, field: Mapping[str, Any], value: Any) -> None:
    """Raise InvokeBadRequestError if a selection does not offer the value."""
    # Options from a variable may be empty; then any value is accepted.
    options = field.get("options")
    if is_array(options) and options and value not in options:
        offered = ", ".join(str(option) for option in options)
        raise InvokeBadRequestError(
            f"{name!r} must be one of {offered}, not {str(value)[:40]!r}", param=name
        )


async def _file_list(
    name: str, field: Mapping[str, Any], value: Any, files: FileParser
) -> list[dict[str, Any]]:
    """Return a list of submitted files. Raises InvokeBadRequestError."""
    if not is_array(value):
        raise InvokeBadRequestError(f"{name!r} must be a list of files", param=name)
    # 0 means any number.
    limit = int(field.get("number_limits") or 0)
    if limit and len(value) > limit:
        raise InvokeBadRequestError(
            f"{name!r} may have at most {limit} files, not {len(value)}", param=name
        )
    return [await _file_object(name, field, element, files) for element in value]


async def _file_object(
    name: str, field: Mapping[str, Any], value: Any, files: FileParser
) -> dict[str, Any]:
    """Return a submitted file as an object. Raises InvokeBadRequestError."""
    file = await files.parse_file(value)
    # Without a list all ways are allowed.
    methods = field.get("allowed_file_upload_methods") or ()
    if methods and file.transfer_method not in methods:
        raise InvokeBadRequestError(
            f"{name!r} must be sent as {' or '.join(methods)}, not"
            f" {file.transfer_method}",
            param=name,
        )
    if not _is_allowed(field, file):
        kinds = ", ".join(field.get("allowed_file_types") or ())
        raise InvokeBadRequestError(
            f"{name!r} must be of type {kinds}, not {file.type} ({file.filename})",
            param=name,
        )
    return file.to_object()


def _is_allowed(field: Mapping[str, Any], file: File) -> bool:
    """Return whether a form's field accepts files of this type or extension."""
    kinds = field.get("allowed_file_types") or ()
    if not kinds or file.type in kinds:
        return True
    # Extensions are written with and without a dot, in any case.
    extensions = {
        str(extension).lower().lstrip(".")
        for extension in field.get("allowed_file_extensions") or ()
    }
    # Extensions count only beside the type `custom`, as in Dify's forms.
    return "custom" in kinds and file.extension.lower().lstrip(".") in extensions
