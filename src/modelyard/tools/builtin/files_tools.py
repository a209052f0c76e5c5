"""Workspace tools: files that an agent keeps for a conversation, or for a user if there
is no conversation."""

from collections.abc import Sequence
from typing import Any

from modelyard.storage.scoped_store import ScopedStore
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolParameterError
from modelyard.tools.function import FunctionTool

# A model reads the result; more would exceed most context windows.
_MAX_READ_LENGTH = 100_000


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the workspace tools; none without a store."""
    if (store := parts.kept) is None:
        return []
    tools = _FileTools(store)
    common_fields = {"provider": "files", "kind": "builtin"}
    # Only reading tools may be repeated; writing twice could append twice.
    return [
        FunctionTool(tools.list_files, **common_fields, is_repeatable=True),
        FunctionTool(tools.read_file, **common_fields, is_repeatable=True),
        FunctionTool(tools.write_file, **common_fields),
        FunctionTool(tools.delete_file, **common_fields),
    ]


class _FileTools:
    """The tools as methods. Their docstrings are sent to models as descriptions."""

    def __init__(self, store: ScopedStore) -> None:
        self._store = store

    async def list_files(self, context: ToolContext) -> Any:
        """The files of the workspace, newest first."""
        files = await self._store.list(context.tenant, _scope(context))
        return [
            {"name": file.name, "bytes": file.size} for file in files
        ] or "There are no files yet."

    async def read_file(
        self, name: str, context: ToolContext, offset: int = 0, limit: int = 20_000
    ) -> str:
        """The text of a file in the workspace.

        offset: where to begin, in characters
        limit: how many characters
        """
        data = await self._store.get(
            context.tenant,
            _scope(context),
            name,
        )
        if data is None:
            raise ToolParameterError(f"File {name[:80]!r} not found in the workspace")
        text = data.decode("utf-8", "replace")
        start = max(0, offset)
        return text[start : start + min(max(1, limit), _MAX_READ_LENGTH)]

    async def write_file(
        self, name: str, content: str, context: ToolContext, append: bool = False
    ) -> str:
        """Write a text file into the workspace; what it held before goes, unless append is true."""
        existing_data = b""
        if append:
            scope = _scope(context)
            existing_data = await self._store.get(context.tenant, scope, name) or b""
        data = existing_data + content.encode()
        await self._store.put(
            context.tenant,
            _scope(context),
            name,
            data,
        )
        return f"Saved {name} ({len(data):,} bytes)."

    async def delete_file(self, name: str, context: ToolContext) -> str:
        """Remove a file from the workspace."""
        is_deleted = await self._store.remove(
            context.tenant,
            _scope(context),
            name,
        )
        return f"{name} was deleted." if is_deleted else f"File {name} not found."


def _scope(context: ToolContext) -> str:
    """Return the scope under which the files of this conversation or user are stored."""
    return f"files/{context.app}/{context.conversation or 'user/' + context.user}"
