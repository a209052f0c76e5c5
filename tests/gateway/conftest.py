"""A gateway with the echo provider and a mock upstream, on a real server thread."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
import uvicorn

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.cli.connection_limits import (
    ConnectionLimiter,
    capacity_for,
    raise_file_limit,
)
from modelyard.cli.http_protocol import GuardedConfig
from modelyard.knowledge.vectors import Embedder
from modelyard.testing import Upstream, echo_models, echo_provider

T = TypeVar("T")


class Running:
    """A gateway that serves `url` until it is closed."""

    def __init__(self, settings: Settings, embedder: Embedder | None = None) -> None:
        self._embedder = embedder
        self._socket = socket.create_server(("127.0.0.1", 0))
        # As `modelyard serve` does.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = self._socket.getsockname()[1]
        self._settings = msgspec.structs.replace(settings, port=port)
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        # Longer than any start takes, on a loaded machine too.
        assert self._ready.wait(60)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.yard = Modelyard(
            self._settings, definitions=[echo_provider()], builders={"echo": echo_models}, environ={},
            embedder=self._embedder,
        )  # fmt: skip
        self.gateway = gateway = gateway_for(
            self.yard.services, on_start=self.yard.services.upkeep.start
        )
        door = ConnectionLimiter(
            self._settings.connections,
            capacity_for(self._settings.connections, raise_file_limit()),
        )
        config = GuardedConfig(gateway, door, timeout_graceful_shutdown=2)
        door.open()
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign]
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving
        door.close()

    def do(self, work: Coroutine[Any, Any, T], seconds: float = 30) -> T:
        """Run a coroutine on the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def flush(self) -> list[Any]:
        """Flush the ledger and return the default tenant's rows, newest first."""
        self.do(self.yard.services.calls.ledger.flush())
        return self.rows("default")

    def rows(self, tenant: str, limit: int = 50) -> list[Any]:
        """Return the rows of a tenant that have been written, newest first."""
        return self.do(
            self.yard.services.calls.ledger.usage.recent(tenant, limit=limit)
        )

    def stop_running_calls(self) -> None:
        """Cut off the calls that run, as a server that stops does after its grace."""

        async def stop() -> None:
            """Cancel all of them."""
            self.gateway.ending.is_over = True
            for task in list(self._server.server_state.tasks):
                task.cancel()

        self.do(stop())

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def start_gateway(settings: Settings) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(
        upstream: Upstream | None = None,
        *,
        embedder: Embedder | None = None,
        **changes: Any,
    ) -> Running:
        providers = changes.pop("providers", [])
        if upstream is not None:
            credential = CredentialSettings(values={"api_key": "sk-upstream-canary"})
            providers = [
                ProviderSettings(
                    name="openai", base_url=upstream.url, credentials=[credential]
                ),
                *providers,
            ]
        changes = {"retries": 0, "defaults": {"llm": "echo/echo"}, **changes}
        running = Running(
            msgspec.structs.replace(settings, providers=providers, **changes), embedder
        )
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()
