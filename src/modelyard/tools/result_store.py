"""Store for tool results that are too long for a prompt. The model reads them in parts
with the `read_result` tool."""

from __future__ import annotations

from modelyard.storage.scoped_store import ScopedStore
from modelyard.tools.entities import ToolContext, ToolParameterError
from modelyard.tools.function import FunctionTool

SCOPE = "results/"
_MAX_BYTES = 4 << 20
# A model reads the result in pages of this size.
_MAX_READ_CHARS = 20_000


class StoredResults:
    """The long results of one agent run."""

    def __init__(self, scoped_store: ScopedStore, tenant: str, run: str) -> None:
        self._scoped_store = scoped_store
        self._tenant = tenant
        self._scope = f"{SCOPE}{run}"
        self.tool = FunctionTool(
            self.read_result, provider="results", kind="builtin", is_repeatable=True
        )

    # The docstring is sent to the model as the tool's description.
    async def read_result(
        self, id: str, context: ToolContext, offset: int = 0, contains: str = ""
    ) -> str:
        """A part of a result that was too long to be shown as a whole.

        id: as the result names it
        offset: where to begin, in characters
        contains: begin where this text stands first, behind offset
        """
        del context
        data = await self._scoped_store.get(self._tenant, self._scope, id)
        if data is None:
            raise ToolParameterError(f"Result {id[:60]!r} not found")
        text = data.decode("utf-8", "replace")
        start = max(0, offset)
        if contains:
            match_index = text.lower().find(contains.lower(), start)
            if match_index < 0:
                return (
                    f"{contains[:100]!r} not found after character {start:,} of"
                    f" {len(text):,}."
                )
            # Start a little before the match, so that the model sees its context.
            start = max(start, match_index - 500)
        end = min(len(text), start + _MAX_READ_CHARS)
        return f"[characters {start:,} to {end:,} of {len(text):,}]\n{text[start:end]}"

    async def save(self, key: str, text: str) -> str:
        """Store a result, truncated at 4 MiB, and return the id under which the model
        can read it."""
        # A slash would separate scopes in the store.
        name = key.replace("/", ".")
        await self._scoped_store.put(
            self._tenant, self._scope, name, text.encode()[:_MAX_BYTES]
        )
        return name
