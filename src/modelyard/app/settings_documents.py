"""The settings that the admin API shows and changes: a file, or the database."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from modelyard.app.shared_settings import SharedSettings
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.private_files import private_folder
from modelyard.gateway.admin.settings_document import SettingsText

_FIXED = (
    "settings_source is 'file', so the settings file is the only source of settings;"
    " change it where it comes from"
)


class StoredSettingsDocument:
    """The settings in the database, or the file that is their seed."""

    def __init__(self, file: Path, shared: SharedSettings) -> None:
        self._file = file
        self._shared = shared

    async def read(self) -> SettingsText:
        """Return the settings; see SettingsDocument."""
        # Read now: this server may be half a second behind.
        stored = await self._shared.latest()
        if stored is None:
            text = await asyncio.to_thread(_read, self._file)
            return SettingsText(location=str(self._file), text=text)
        return SettingsText(
            location="database", text=stored.text, version=stored.version
        )

    async def write(self, current: SettingsText, text: str, changed_by: str) -> None:
        """Store another version for all servers; see SettingsDocument."""
        await self._shared.change(
            current.text, text, after=current.version, changed_by=changed_by
        )


class SettingsFile:
    """The settings file of a server of its own, or one that nobody may change here."""

    def __init__(
        self, path: Path, load: Callable[[Path], object], *, is_fixed: bool
    ) -> None:
        """`load` loads a settings file, with environment variables taking precedence,
        and raises ConfigError. `is_fixed` refuses changes."""
        self._path = path
        self._load = load
        self._fixed = _FIXED if is_fixed else ""

    async def read(self) -> SettingsText:
        """Return the file; see SettingsDocument."""
        text = await asyncio.to_thread(_read, self._path)
        return SettingsText(location=str(self._path), text=text, fixed=self._fixed)

    async def write(self, current: SettingsText, text: str, changed_by: str) -> None:
        """Replace the file if the text is valid; see SettingsDocument."""
        del current, changed_by
        # Also for callers that ignore what the view says.
        if self._fixed:
            raise InvokeBadRequestError(
                f"The settings cannot be changed here: {self._fixed}", param="text"
            )
        await asyncio.to_thread(self._replace, text)

    def _replace(self, text: str) -> None:
        """Replace the file atomically. Raises InvokeBadRequestError."""
        path = self._path
        private_folder(path.parent)
        # The temporary file is in the same folder, because a rename is atomic only
        # within one file system.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=".modelyard-", suffix=".yaml"
        )
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            # Validate before the rename: the server must never read an invalid file.
            self._load(Path(name))
            Path(name).replace(path)
        except ConfigError as error:
            # The error names the temporary file, which means nothing to the caller.
            raise InvokeBadRequestError(
                str(error).replace(f"{name}:", "Line "), param="text"
            ) from error
        finally:
            Path(name).unlink(missing_ok=True)


def _read(file: Path) -> str:
    """Return the text of a settings file; empty without one."""
    return file.read_text("utf-8") if file.is_file() else ""
