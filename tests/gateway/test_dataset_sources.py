"""The admin API for the sources of datasets, over a running server."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelyard.testing import Upstream
from modelyard.testing.s3 import ACCESS_KEY, SECRET_KEY, PlayedS3
from tests.gateway.conftest import Running, start_gateway
from tests.gateway.test_traffic import Got, ask

__all__ = ["start_gateway"]
Start = Callable[..., Running]
BOSS = "operator-key-1"


@pytest.fixture
def bucket() -> Iterator[Upstream]:
    server = PlayedS3("company", {"docs/tea.txt": b"Tea is served at four."})
    with Upstream(server) as upstream:
        yield upstream


class Client:
    """Calls of a tenant's administrator."""

    def __init__(self, running: Running, tenant: str) -> None:
        self.running = running
        made = self._ask("POST", "/tenants", {"name": tenant}, BOSS)
        assert made.status == 201
        key = {"name": "admin", "role": "admin"}
        self.key = self._ask("POST", f"/keys?tenant={tenant}", key, BOSS).json["key"]
        viewer = {"name": "dev", "role": "editor"}
        self.editor = self._ask("POST", f"/keys?tenant={tenant}", viewer, BOSS).json["key"]  # fmt: skip
        dataset = {"name": "handbook", "indexing_technique": "economy"}
        created = ask(running, "POST", "/v1/datasets", dataset, key=self.key)
        assert created.status == 200, created.json
        self.dataset = created.json["id"]

    def _ask(self, method: str, path: str, body: Any, key: str) -> Got:
        return ask(self.running, method, f"/admin/v1{path}", body, key=key)

    def __call__(self, method: str, path: str = "", body: Any = None, key: str = "") -> Got:  # fmt: skip
        return self._ask(
            method, f"/sources/{self.dataset}{path}", body, key or self.key
        )


def definition(url: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "bucket",
        "connector": "s3",
        "settings": {"bucket": "company", "prefix": "docs/", "endpoint": url},
        "credentials": {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY},
    }
    return {**values, **changes}


def test_a_source_over_the_admin_api(start_gateway: Start, bucket: Upstream):
    url = bucket.url.removesuffix("/v1")
    # The operator lists the private address, so that tenants may use it.
    running = start_gateway(api_keys=[BOSS], egress=_allowing(url))
    acme, other = Client(running, "acme"), Client(running, "other")
    added = acme("POST", body=definition(url, schedule="*/5 * * * *"))
    assert added.status == 201, added.json
    assert added.json["credentials"] == {"access_key": "********", "secret_key": "********"}  # fmt: skip
    assert SECRET_KEY not in str(added.json)
    source = added.json["id"]
    shown = _settled(acme, source)
    assert (shown["error"], shown["report"]["added"]) == ("", 1)
    assert shown["next_at"] > shown["finished_at"]
    assert acme("GET").json["data"] == [shown]
    # Another tenant knows neither the dataset nor the source; an editor may not look.
    assert other("GET", f"/{source}").status == 404
    foreign = ask(running, "GET", f"/admin/v1/sources/{acme.dataset}", key=other.key)
    assert foreign.status == 404
    assert acme("GET", key=acme.editor).status == 403
    changed = acme("PATCH", f"/{source}", {"name": "tea", "enabled": False})
    assert (changed.json["name"], changed.json["next_at"]) == ("tea", None)
    requested = acme("POST", "/tea/sync")
    assert (requested.status, requested.json["state"] in ("waiting", "running")) == (200, True)  # fmt: skip
    assert _settled(acme, source)["report"]["same"] == 1
    refused = acme("DELETE", f"/{source}")
    assert (refused.status, "keep or delete" in str(refused.json)) == (400, True)
    removed = acme("DELETE", f"/{source}?documents=delete")
    assert removed.json == {"id": source, "deleted": True, "documents": 1, "documents_deleted": True}  # fmt: skip
    assert acme("GET").json["data"] == []
    listed = ask(running, "GET", f"/v1/datasets/{acme.dataset}/documents", key=acme.key)
    assert listed.json["total"] == 0


def test_mistakes_are_told_with_their_field(start_gateway: Start, bucket: Upstream):
    acme = Client(start_gateway(api_keys=[BOSS]), "acme")
    url = bucket.url.removesuffix("/v1")
    for body, status, message in (
        (definition(url, connector="ftp"), 400, "Unknown connector"),
        (definition(url, connector="folder", settings={"path": "/etc"}, credentials={}), 400, "command line only"),
        (definition(url, schedule="often"), 400, "must have five fields"),
        (definition(url, colour="red"), 400, "colour"),
    ):  # fmt: skip
        answered = acme("POST", body=body)
        assert (answered.status, message in str(answered.json)) == (status, True), answered.json  # fmt: skip
    assert acme("GET", "/gone").status == 404
    connectors = ask(acme.running, "GET", "/admin/v1/connectors", key=acme.key)
    names = [connector["name"] for connector in connectors.json["data"]]
    assert "s3" in names
    assert "folder" not in names
    [site] = [
        connector for connector in connectors.json["data"] if connector["name"] == "web"
    ]
    fields = site["settings"]["$defs"]["WebSettings"]["properties"]
    assert list(fields) == ["urls", "sitemap", "max_pages", "prefixes"]
    # Without the operator's consent a private address is not asked.
    acme("POST", body=definition(url, schedule="*/5 * * * *"))
    assert "blocked" in _settled(acme, "bucket")["error"]
    assert bucket.requests == []


def _allowing(url: str) -> Any:
    from modelyard.base.settings import EgressSettings

    return EgressSettings(private=[url.removeprefix("http://")])


def _settled(client: Client, source: str) -> dict[str, Any]:
    """Return a source after its synchronisation has ended."""
    for _ in range(300):
        shown = client("GET", f"/{source}").json
        if shown["state"] == "idle" and shown["finished_at"]:
            return shown
        time.sleep(0.1)
    raise AssertionError(shown)
