"""How an app is shown: name, description and icon. Pure.

The exported file of an app has these fields too. They are edited without a new version,
as in Dify, so the stored record is what counts; an export writes them into the file.
"""

import dataclasses
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_object
from modelyard.tenancy.resource_types import StoredApp
from modelyard.workflow.dsl import App

_MAX_ICON = 200
"""Characters of an icon that is kept in the record. Longer ones stay in the file."""
_ICON_TYPES = ("emoji", "image", "link")
_FIELDS = ("name", "description", "icon", "icon_type", "icon_background")


class Appearance(msgspec.Struct, frozen=True, kw_only=True):
    """What people see of an app."""

    name: str
    description: str
    icon: str
    """An emoji, or an image's address or file id, depending on `icon_type`."""
    icon_type: str
    icon_background: str
    """A colour, as `#FFEAD5`."""


class AppearanceChange(msgspec.Struct, frozen=True, kw_only=True):
    """New values of an app's appearance; None leaves a field as it is."""

    name: str | None = None
    description: str | None = None
    icon: str | None = None
    icon_type: str | None = None
    icon_background: str | None = None


def appearance_of(name: str, stored: StoredApp, app: App) -> Appearance:
    """Return the appearance of an app: its record's, completed from its file."""
    return Appearance(
        name=name,
        description=stored.description,
        # Records of earlier versions have no type and background of their own.
        icon=stored.icon or app.icon,
        icon_type=stored.icon_type or app.icon_type,
        icon_background=stored.icon_background or app.icon_background,
    )


def appearance_from_file(stored: StoredApp, app: App) -> StoredApp:
    """Return the record with the appearance that a file states."""
    return msgspec.structs.replace(
        stored,
        description=app.description,
        icon=_short_icon(app.icon),
        icon_type=app.icon_type,
        icon_background=app.icon_background,
    )


def merge_appearance(stored: StoredApp, previous: App, app: App) -> StoredApp:
    """Return the record with what a new draft changes in the appearance.

    The author may have started before somebody else edited the appearance: a field that
    is the same in both files was not changed by the author, and keeps its value.
    """
    changes: dict[str, Any] = {}
    # The name is not merged: a draft never renames its app.
    if app.description != previous.description:
        changes["description"] = app.description
    if app.icon != previous.icon:
        changes["icon"] = _short_icon(app.icon)
    if app.icon_type != previous.icon_type:
        changes["icon_type"] = app.icon_type
    if app.icon_background != previous.icon_background:
        changes["icon_background"] = app.icon_background
    return msgspec.structs.replace(stored, **changes)


def _short_icon(icon: str) -> str:
    """Return an icon, or an empty text if it is too long for the record."""
    return icon if len(icon) < _MAX_ICON else ""


def app_with_appearance(app: App, appearance: Appearance) -> App:
    """Return the app with its appearance written into its document. Fields that the file
    states the same way stay as they are, so an unedited app is exported unchanged."""
    section_name = _section_name(app)
    section: Any = app.document.get(section_name)
    changes = {
        field: value
        for field in _FIELDS
        if (value := getattr(appearance, field)) != getattr(app, field)
    }
    if not changes or not is_object(section):
        return app
    document = {**app.document, section_name: {**section, **changes}}
    return dataclasses.replace(app, document=document)


def _section_name(app: App) -> str:
    """Return the name of the document's section with the metadata."""
    return "app" if is_object(app.document.get("app")) else app.kind


def checked_change(change: AppearanceChange) -> AppearanceChange:
    """Return a change with stripped texts. Raises InvokeBadRequestError for a value that
    no app may have."""
    # A name is looked up as it is written, so space around it would hide the app.
    name = change.name.strip() if change.name is not None else None
    if name is not None and not _is_line(name, 200):
        raise _bad_field("name", "'name' must be 1 to 200 printable characters")
    if change.description is not None and len(change.description) > 4_000:
        raise _bad_field(
            "description", "'description' must have at most 4,000 characters"
        )
    if change.icon is not None and not _is_line(change.icon, _MAX_ICON - 1):
        raise _bad_field(
            "icon", f"'icon' must be 1 to {_MAX_ICON - 1} printable characters"
        )
    if change.icon_type is not None and change.icon_type not in _ICON_TYPES:
        raise _bad_field(
            "icon_type", f"'icon_type' must be one of {', '.join(_ICON_TYPES)}"
        )
    if change.icon_background is not None and not _is_colour(change.icon_background):
        raise _bad_field(
            "icon_background", "'icon_background' must be a colour such as #FFEAD5"
        )
    return msgspec.structs.replace(change, name=name)


def _bad_field(field: str, message: str) -> InvokeBadRequestError:
    """Return the error about one field."""
    return InvokeBadRequestError(message, param=field)


def _is_line(text: str, limit: int) -> bool:
    """Return whether a text is a single line of 1 to `limit` characters that can be
    stored."""
    # Not `isprintable`: emoji are often joined by characters that do not print.
    return 1 <= len(text) <= limit and all(
        " " <= char != "\x7f" and not "\ud800" <= char <= "\udfff" for char in text
    )


def _is_colour(text: str) -> bool:
    """Return whether a text is a colour in hexadecimal digits, with or without alpha."""
    # Three or six digits for the colour, and one or two for its alpha.
    digits = text[1:].lower()
    return (
        text[:1] == "#"
        and len(digits) in (3, 4, 6, 8)
        and all(digit in "0123456789abcdef" for digit in digits)
    )
