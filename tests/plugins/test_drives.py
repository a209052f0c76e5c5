"""Drives as sources of documents."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelyard.workflow.nodes.datasource import DatasourceData
from modelyard.workflow.sources import TenantDatasources

pytestmark = pytest.mark.proof("plugins-driven")


class Drive:
    """Stands in for the plugins of a tenant: one drive, and what it is asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        identity = SimpleNamespace(name="drive")
        declaration = SimpleNamespace(datasource=SimpleNamespace(identity=identity))
        self._plugin = SimpleNamespace(plugin_id="a/drive", declaration=declaration)

    def provider(self, tenant: str, name: str) -> tuple[Any, str]:
        del tenant, name
        return self._plugin, "drive"

    async def find(self, *details: str) -> tuple[dict[str, Any], str]:
        del details
        return {}, "oauth2"

    async def call(
        self, tenant: str, plugin: str, kind: str, action: str, data: Any, *, user: str
    ) -> AsyncGenerator[Any, None]:
        del tenant, plugin, kind, action, user
        self.requests.append(data["request"])
        yield {"result": []}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        # The SDK refuses a request without a prefix; the top of a drive has none.
        ({}, {"prefix": "", "max_keys": 20}),
        ({"bucket": "b"}, {"bucket": "b", "prefix": "", "max_keys": 20}),
        ({"prefix": "7", "max_keys": 5}, {"prefix": "7", "max_keys": 5}),
    ],
)
def test_a_drive_is_browsed_from_its_top(
    inputs: dict[str, Any], expected: dict[str, Any]
):
    drive = Drive()
    plugins: Any = drive
    sources = TenantDatasources(plugins, plugins, cast("Any", None), cast("Any", None), "t", "u")  # fmt: skip
    data = DatasourceData(plugin_id="a/drive", provider_name="drive")

    async def browse() -> list[Any]:
        return [found async for found in sources.browse(data, "online_drive", inputs)]

    assert asyncio.run(browse()) == [[]]
    assert drive.requests == [expected]
