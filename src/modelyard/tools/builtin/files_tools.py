"""A workspace: files that an agent keeps for one conversation, or one user where there is no conversation."""

from collections.abc import Sequence
from typing import Any

from modelyard.tools.builtin import Parts
from modelyard.tools.entities import ToolContext, ToolParameterError
from modelyard.tools.function import FunctionTool

_MOST_READ = 100_000


def make(parts: Parts) -> Sequence[FunctionTool]:
    if (kept := parts.kept) is None:
        return []

    async def list_files(context: ToolContext) -> Any:
        """The files of the workspace, newest first."""
        found = await kept.list(context.tenant, _scope(context))
        return [{"name": one.name, "bytes": one.size} for one in found] or "There are no files yet."

    async def read_file(name: str, context: ToolContext, offset: int = 0, limit: int = 20_000) -> str:
        """The text of a file in the workspace.

        offset: where to begin, in characters
        limit: how many characters
        """
        data = await kept.get(context.tenant, _scope(context), name)
        if data is None:
            raise ToolParameterError(f"there is no file {name[:80]!r} in the workspace")
        text = data.decode("utf-8", "replace")
        return text[max(0, offset) : max(0, offset) + min(max(1, limit), _MOST_READ)]

    async def write_file(name: str, content: str, context: ToolContext, append: bool = False) -> str:
        """Write a text file into the workspace; what it held before goes, unless append is true."""
        before = (await kept.get(context.tenant, _scope(context), name) or b"") if append else b""
        data = before + content.encode()
        await kept.put(context.tenant, _scope(context), name, data)
        return f"{name} holds {len(data):,} bytes."

    async def delete_file(name: str, context: ToolContext) -> str:
        """Remove a file from the workspace."""
        gone = await kept.remove(context.tenant, _scope(context), name)
        return f"{name} is gone." if gone else f"There is no file {name}."

    about = {"provider": "files", "kind": "builtin"}
    return [
        FunctionTool(list_files, **about, is_repeatable=True), FunctionTool(read_file, **about, is_repeatable=True),
        FunctionTool(write_file, **about), FunctionTool(delete_file, **about),
    ]  # fmt: skip


def _scope(context: ToolContext) -> str:
    return f"files/{context.app}/{context.conversation or 'user/' + context.user}"
