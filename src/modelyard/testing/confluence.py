"""A double of Confluence: the pages of one space, in the form of its REST API."""

import base64
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modelyard.testing import Answer, UpstreamRequest, json_answer

USER, TOKEN = "bot@example.com", "confluence-token"


@dataclass(slots=True, kw_only=True)
class PlayedPage:
    """A page with its restriction: names of users and groups; none of both for none."""

    title: str
    body: str
    parent: str = ""
    version: int = 1
    users: list[str] = field(default_factory=list[str])
    groups: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class PlayedConfluence:
    """The handler of an `Upstream`: the pages of a space by id."""

    space: str
    pages: dict[str, PlayedPage] = field(default_factory=dict[str, PlayedPage])
    fetched: list[str] = field(default_factory=list[str])
    """The ids of pages whose content was read."""
    failures: list[int] = field(default_factory=list[int])
    """Statuses of the next answers, instead of the right ones; 0 for a right one."""

    def __call__(self, request: UpstreamRequest) -> Answer:
        """Answer like Confluence: a page, its restrictions, or a listing."""
        if self.failures and (status := self.failures.pop(0)):
            return json_answer({"statusCode": status}, status=status)
        credential = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {credential}":
            return json_answer({"statusCode": 401}, status=401)
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = parts.path.rpartition("/rest/api/content")[2].lstrip("/")
        if not key:
            return self._listing(query)
        if key not in self.pages:
            return json_answer({"statusCode": 404}, status=404)
        self.fetched.append(key)
        content = {"value": self.pages[key].body, "representation": "export_view"}
        shown = {**self._view(key), "body": {"export_view": content}}
        return json_answer(shown)

    def _listing(self, query: dict[str, str]) -> Answer:
        """Return some of the pages, the newest first, as Confluence does."""
        if query.get("spaceKey") != self.space:
            return json_answer({"statusCode": 404}, status=404)
        start, limit = int(query["start"]), int(query["limit"])
        keys = list(reversed(self.pages))
        results = [self._view(key) for key in keys[start : start + limit]]
        links = {"base": "https://example.atlassian.net/wiki", "context": "/wiki"}
        if start + limit < len(keys):
            links["next"] = f"/rest/api/content?start={start + limit}"
        page = {"start": start, "limit": limit, "size": len(results)}
        return json_answer({"results": results, **page, "_links": links})

    def _view(self, key: str) -> dict[str, Any]:
        """Return a page as the API shows it."""
        page = self.pages[key]
        users = [
            {"type": "known", "accountId": f"id-{name}", "email": name if "@" in name else ""}
            for name in page.users
        ]  # fmt: skip
        groups = [{"type": "group", "name": name} for name in page.groups]
        restrictions = {
            "user": {"results": users, "start": 0, "limit": 200, "size": len(users)},
            "group": {"results": groups, "start": 0, "limit": 200, "size": len(groups)},
        }
        return {
            "id": key, "type": "page", "status": "current", "title": page.title,
            "version": {"number": page.version},
            "ancestors": [{"id": above} for above in self._above(key)],
            "restrictions": {"read": {"operation": "read", "restrictions": restrictions}},
            "_links": {"webui": f"/spaces/{self.space}/pages/{key}"},
        }  # fmt: skip

    def _above(self, key: str) -> list[str]:
        """Return the ancestors of a page, the topmost first."""
        parent = self.pages[key].parent
        if not parent:
            return []
        return [*(self._above(parent) if parent in self.pages else ()), parent]
