"""Stand-ins for the services behind tools and datasources, by host; everything else is a
model vendor's."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from modelyard.testing import Answer, UpstreamRequest, json_answer
from tools.show import played_vendors
from tools.show.played_vendors import FAULTS, key_of, refusal

PAGE = "https://page.example/one"
CONTENT = "The fountain in the market place was built in 1542."
PICTURE = b"\x89PNG\r\n\x1a\n" + b"played" * 100
_RESULT = {
    "title": "The fountain",
    "url": PAGE,
    "link": PAGE,
    "content": CONTENT,
    "raw_content": CONTENT,
    "snippet": CONTENT,
    "description": CONTENT,
    "score": 0.9,
}
_CRAWLED = {
    "markdown": CONTENT,
    "metadata": {"title": "The fountain", "description": "", "sourceURL": PAGE},
}


def search(request: UpstreamRequest) -> Answer:
    """Answer a search with one result, under the names that services have for it."""
    del request
    document = {
        "results": [_RESULT],
        "organic": [_RESULT],
        "web": {"results": [_RESULT]},
    }
    return json_answer({**document, "query": "fountain", "response_time": 0.1})


def firecrawl(request: UpstreamRequest) -> Answer:
    """Start a crawl, and report it as complete at once."""
    path = urlsplit(request.path).path
    if request.method == "GET":
        state = {"success": True, "status": "completed", "total": 1, "completed": 1}
        return json_answer({**state, "data": [_CRAWLED]})
    if path.endswith("/scrape"):
        return json_answer({"success": True, "data": _CRAWLED})
    return json_answer({"success": True, "id": "job", "url": f"{PAGE}/job"})


def hacker_news(request: UpstreamRequest) -> Answer:
    """Answer with two stories."""
    if "stories" in request.path:
        return json_answer([1, 2])
    story = {"id": 1, "type": "story", "title": "The fountain", "url": PAGE}
    return json_answer({**story, "by": "ada", "score": 3, "time": 1_700_000_000})


def reader(request: UpstreamRequest) -> Answer:
    """Answer with the text of a page."""
    del request
    return Answer(headers={"content-type": "text/plain"}, body=CONTENT.encode())


def pictures(request: UpstreamRequest) -> Answer:
    """Answer with a picture."""
    if "account" in request.path:
        return json_answer({"credits": 1.0})
    return Answer(headers={"content-type": "image/png"}, body=PICTURE)


def notion(request: UpstreamRequest) -> Answer:
    """Answer as Notion does, with one page of one paragraph."""
    path = urlsplit(request.path).path
    if path.endswith("/users/me"):
        bot = {"workspace_name": "Town", "workspace_icon": "", "workspace_id": "w1"}
        return json_answer({"object": "user", "type": "bot", "bot": bot})
    if path.endswith("/search"):
        return json_answer(
            {"results": [_NOTION_PAGE], "has_more": False, "next_cursor": None}
        )
    if path.endswith("/children"):
        return json_answer(
            {"results": [_PARAGRAPH], "has_more": False, "next_cursor": None}
        )
    return json_answer(_NOTION_PAGE)


def box(request: UpstreamRequest) -> Answer:
    """Answer with a folder in which there is a file, and with the file."""
    path = urlsplit(request.path).path
    if path.endswith("/content"):
        return Answer(body=CONTENT.encode())
    file = {"id": "8", "type": "file", "name": "fountain.txt", "size": len(CONTENT)}
    if "/files/" in path:
        return json_answer(file)
    folder = {"id": "7", "type": "folder", "name": "town"}
    entries = [file] if "/folders/7/" in path else [folder]
    return json_answer({"entries": entries, "total_count": 1, "offset": 0})


_NOTION_TEXT = {"type": "text", "plain_text": CONTENT, "text": {"content": CONTENT}}
_NOTION_PAGE = {
    "object": "page",
    "id": "page-1",
    "icon": None,
    "last_edited_time": "2026-01-01T00:00:00.000Z",
    "parent": {"type": "workspace", "workspace": True},
    "properties": {
        "Name": {"type": "title", "title": [{"plain_text": "The fountain"}]}
    },
}
_PARAGRAPH = {
    "object": "block",
    "id": "block-1",
    "type": "paragraph",
    "has_children": False,
    "paragraph": {"rich_text": [_NOTION_TEXT]},
}


webhook_secrets: list[str] = []
"""The secrets of the webhooks that were created at GitHub."""


def github(request: UpstreamRequest) -> Answer:
    """Answer as GitHub does, with a user who has one repository."""
    path = urlsplit(request.path).path
    if path.endswith("/hooks"):
        webhook_secrets.append(request.json["config"]["secret"])
        return Answer(status=201, body=b'{"id": 5, "active": true}')
    if "/hooks/" in path:
        return Answer(status=204)
    if path.endswith("/user"):
        return json_answer({"login": "ada", "name": "Ada", "id": 1, "avatar_url": PAGE})
    repository = {"id": 1, "name": "town", "full_name": "ada/town", "html_url": PAGE}
    return json_answer(
        [{**repository, "description": CONTENT, "updated_at": "2026-01-01T00:00:00Z"}]
    )


def telegraph(request: UpstreamRequest) -> Answer:
    """Answer with the address of a page that was made."""
    del request
    page = {"url": PAGE, "path": "one", "title": "The fountain", "access_token": "x"}
    return json_answer({"ok": True, "result": page})


_SERVICES: Mapping[str, Callable[[UpstreamRequest], Answer]] = {
    r"searx\.example|tavily|serper|search\.brave": search,
    r"firecrawl": firecrawl,
    r"hacker-news": hacker_news,
    r"[rs]\.jina\.ai": reader,
    r"stability": pictures,
    r"notion": notion,
    r"api\.box": box,
    r"telegra\.ph": telegraph,
    r"api\.github": github,
}


def answer(request: UpstreamRequest) -> Answer:
    """Answer a request for the host that it names."""
    host = request.headers.get("host", "")
    for pattern, handle in _SERVICES.items():
        if re.search(pattern, host):
            status = FAULTS.get(key_of(request))
            return refusal(status) if status is not None else handle(request)
    return played_vendors.answer(request)
