"""Results that are too long for a prompt: kept for a while, and given to the model a part at a time."""

from __future__ import annotations

from modelyard.storage.kept import Kept
from modelyard.tools.entities import ToolContext, ToolParameterError
from modelyard.tools.function import FunctionTool

SCOPE = "results/"
_MOST = 4 << 20
_MOST_READ = 20_000


class KeptResults:
    """Of one run of one agent."""

    def __init__(self, kept: Kept, tenant: str, run: str) -> None:
        self._kept = kept
        self._tenant = tenant
        self._scope = f"{SCOPE}{run}"

        async def read_result(id: str, context: ToolContext, offset: int = 0, contains: str = "") -> str:  # noqa: A002
            """A part of a result that was too long to be shown as a whole.

            id: as the result names it
            offset: where to begin, in characters
            contains: begin where this text stands first, behind offset
            """
            data = await self._kept.get(self._tenant, self._scope, id)
            if data is None:
                raise ToolParameterError(f"there is no result {id[:60]!r}")
            text = data.decode("utf-8", "replace")
            begin = max(0, offset)
            if contains:
                found = text.lower().find(contains.lower(), begin)
                if found < 0:
                    return f"{contains[:100]!r} does not stand behind character {begin:,} of {len(text):,}."
                begin = max(begin, found - 500)
            end = min(len(text), begin + _MOST_READ)
            return f"[characters {begin:,} to {end:,} of {len(text):,}]\n{text[begin:end]}"

        self.tool = FunctionTool(read_result, provider="results", kind="builtin", is_repeatable=True)

    async def keep(self, key: str, text: str) -> str:
        name = key.replace("/", ".")
        await self._kept.put(self._tenant, self._scope, name, text.encode()[:_MOST])
        return name
