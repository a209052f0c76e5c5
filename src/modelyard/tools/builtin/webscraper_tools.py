"""Pages as a reader would see them."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from modelyard.jail.sandbox import JailError
from modelyard.tools.builtin import Parts
from modelyard.tools.entities import ToolContext, ToolInvokeError
from modelyard.tools.function import FunctionTool
from modelyard.transport.egress import EgressError

_MOST_PAGE = 10 << 20
_NAMES = {"text/html": ".html", "application/pdf": ".pdf", "text/plain": ".txt", "application/json": ".json"}


def make(parts: Parts) -> Sequence[FunctionTool]:
    if (egress := parts.egress) is None or (jail := parts.jail) is None:
        return []

    async def webscraper(context: ToolContext, url: str) -> str:
        """The text of a web page or of a document on the web, as Markdown.

        url: beginning with https:// or http://
        """
        try:
            page = await egress.fetch("GET", url, headers=[("accept", "text/html, */*")], most_bytes=_MOST_PAGE)
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        if page.status >= 400:
            raise ToolInvokeError(f"{url[:200]} answers with status {page.status}")
        kind = page.headers.get("content-type", "").partition(";")[0].strip().lower()
        name = (urlsplit(page.url).path.rpartition("/")[2] or "page") + _NAMES.get(kind, "")
        try:
            told = await jail.read(name, page.body, tenant=context.tenant)
        except JailError as error:
            raise ToolInvokeError(f"{url[:200]}: {error}") from error
        text = "\n\n".join(one["text"] for one in told["parts"])
        return f"# {told['title']}\n\n{text}" if told["title"] and told["title"] not in text[:300] else text

    return [FunctionTool(webscraper, provider="webscraper", kind="builtin", is_repeatable=True, keeps=60.0)]
