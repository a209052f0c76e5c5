"""The settings that /admin/v1/settings shows and changes, wherever they are stored."""

from typing import Protocol

import msgspec


class SettingsText(msgspec.Struct, frozen=True, kw_only=True):
    """The settings as they are stored."""

    location: str
    """The path of a file, or `database`."""
    text: str
    """YAML with its secrets."""
    version: int = 0
    """Number of changes so far; 0 for a file, and before the first change."""
    fixed: str = ""
    """Why they cannot be changed here; empty if they can be."""


class SettingsDocument(Protocol):
    """A settings file, or the settings in the database."""

    async def read(self) -> SettingsText:
        """Return the settings. Raises StorageUnavailableError."""
        ...

    async def write(self, current: SettingsText, text: str, changed_by: str) -> None:
        """Validate and store another text in place of `current`; servers apply it.

        Raises InvokeBadRequestError that lists every mistake with its line, or says why
        nothing can be changed, and StorageUnavailableError.
        """
        ...
