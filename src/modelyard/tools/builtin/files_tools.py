"""Workspace tools: files that an agent keeps for a conversation, or for a user if there
is no conversation."""

from collections.abc import Sequence
from typing import Any

from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolParameterError
from modelyard.tools.function import FunctionTool

_MAX_READ_LENGTH = 100_000


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the workspace tools; none without a store."""
    if (store := parts.kept) is None:
        return []

    async def list_files(context: ToolContext) -> Any:
        """The files of the workspace, newest first."""
        files = await store.list(context.tenant, _scope(context))
        return [
            {"name": file.name, "bytes": file.size} for file in files
        ] or "There are no files yet."

    async def read_file(
        name: str, context: ToolContext, offset: int = 0, limit: int = 20_000
    ) -> str:
        """The text of a file in the workspace.

        offset: where to begin, in characters
        limit: how many characters
        """
        data = await store.get(context.tenant, _scope(context), name)
        if data is None:
            raise ToolParameterError(f"there is no file {name[:80]!r} in the workspace")
        text = data.decode("utf-8", "replace")
        return text[
            max(0, offset) : max(0, offset) + min(max(1, limit), _MAX_READ_LENGTH)
        ]

    async def write_file(
        name: str, content: str, context: ToolContext, append: bool = False
    ) -> str:
        """Write a text file into the workspace; what it held before goes, unless append is true."""
        existing_data = (
            (await store.get(context.tenant, _scope(context), name) or b"")
            if append
            else b""
        )
        data = existing_data + content.encode()
        await store.put(context.tenant, _scope(context), name, data)
        return f"{name} holds {len(data):,} bytes."

    async def delete_file(name: str, context: ToolContext) -> str:
        """Remove a file from the workspace."""
        is_deleted = await store.remove(context.tenant, _scope(context), name)
        return f"{name} is gone." if is_deleted else f"There is no file {name}."

    common_fields = {"provider": "files", "kind": "builtin"}
    # Only reading tools may be repeated; writing twice could append twice.
    return [
        FunctionTool(list_files, **common_fields, is_repeatable=True),
        FunctionTool(read_file, **common_fields, is_repeatable=True),
        FunctionTool(write_file, **common_fields),
        FunctionTool(delete_file, **common_fields),
    ]


def _scope(context: ToolContext) -> str:
    """Return the scope under which the files of this conversation or user are stored."""
    return f"files/{context.app}/{context.conversation or 'user/' + context.user}"
