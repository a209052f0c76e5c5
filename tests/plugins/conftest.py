"""A gateway with real plugins in real processes.

Their environment is installed once for all tests, from the package index.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.show.odd_plugins import odd_plugin

from modelyard.base.settings import PluginSettings
from modelyard.plugins.package import Package, package_folder
from modelyard.tenant_plugins.plugins import Installed
from tests.conftest import make_settings
from tests.gateway.conftest import Running, start_gateway

__all__ = ["start_gateway"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of environments, shared by pytest workers; its contents never change."""
    folder = tmp_path_factory.getbasetemp().parent / "plugin-environments"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def example() -> Callable[[str], Package]:
    return lambda name: package_folder(EXAMPLES / name)


class PluginGateway:
    """A running gateway and its plugins."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.yard = running.yard
        self.plugins = running.yard.services.plugins.plugins
        self.parts = running.yard.services.plugins

    def run_on_loop(self, work: Any, seconds: float = 60) -> Any:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.running.loop).result(seconds)

    def install(
        self, *names: str, tenant: str = "default", **options: Any
    ) -> list[Installed]:
        return [
            self.run_on_loop(
                self.parts.installations.add(
                    tenant, package_folder(EXAMPLES / name), **options
                )
            )
            for name in names
        ]

    def call(
        self,
        plugin: str,
        call_type: str,
        action: str,
        tenant: str = "default",
        **data: Any,
    ) -> list[Any]:
        async def gather() -> list[Any]:
            return [
                chunk
                async for chunk in self.plugins.call(
                    tenant, plugin, call_type, action, data, user="alice"
                )
            ]

        return self.run_on_loop(gather())

    def tool(self, tool: str, tenant: str = "default", **parameters: Any) -> list[Any]:
        return self.call(
            "modelyard/toolbox", "tool", "invoke_tool", tenant,
            provider="toolbox", tool=tool, credentials={}, credential_type="api-key", tool_parameters=parameters,
        )  # fmt: skip

    def tool_text(self, tool: str, **parameters: Any) -> str:
        """Return the text of a tool's answer."""
        texts = [
            chunk["message"]["text"]
            for chunk in self.tool(tool, **parameters)
            if chunk["type"] == "text"
        ]
        return "".join(texts)


@pytest.fixture(scope="module")
def toolbox(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, environments: Path
) -> Iterator[PluginGateway]:
    """A gateway with the toolbox and models for it, for tests that change nothing."""
    home = tmp_path_factory.mktemp("toolbox")
    (home / "plugins").mkdir()
    (home / "plugins" / "environments").symlink_to(environments)
    settings = make_settings(home, weights_folder, retries=0)
    running = Running(
        msgspec.structs.replace(settings, defaults={"llm": "echo/echo"}),
    )
    try:
        gateway = PluginGateway(running)
        gateway.install("toolbox", "sixfold")
        yield gateway
    finally:
        running.close()


@pytest.fixture
def plugged(
    start_gateway: Callable[..., Running], environments: Path, tmp_path: Path
) -> Iterator[Callable[..., PluginGateway]]:
    def start(
        upstream: Any = None, *, chosen: PluginSettings | None = None, **changes: Any
    ) -> PluginGateway:
        folder = tmp_path / "plugins"
        folder.mkdir(exist_ok=True)
        if not (folder / "environments").exists():
            (folder / "environments").symlink_to(environments)
        chosen = chosen or msgspec.structs.replace(PluginSettings(), debug_port=0)
        return PluginGateway(start_gateway(upstream, plugins=chosen, **changes))

    return start


@contextmanager
def played_gateway(
    home: Path,
    weights_folder: Path,
    environments: Path,
    models: Mapping[str, str],
    **changes: Any,
) -> Generator[PluginGateway]:
    """Yield a gateway with a plugin named `played`, whose models answer as they are
    asked to. `models` are their declarations, `changes` those of the settings."""
    (home / "plugins").mkdir()
    (home / "plugins" / "environments").symlink_to(environments)
    settings = make_settings(home, weights_folder, retries=0)
    chosen = msgspec.structs.replace(PluginSettings(), debug_port=0)
    running = Running(msgspec.structs.replace(settings, plugins=chosen, **changes))
    try:
        started = PluginGateway(running)
        folder = odd_plugin(
            home / "odd", "played", extension_type="models", models=models
        )
        started.run_on_loop(
            started.parts.installations.add("default", package_folder(folder))
        )
        yield started
    finally:
        running.close()
