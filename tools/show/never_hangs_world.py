"""The world of the proof `never-hangs`: a server process with an app for each kind of
node, and an outside server whose gates hold runs until they are opened.

As a program it serves a home folder: `python -m tools.show.never_hangs_world HOME
ORIGIN PORT SEED COUNT`.
"""

import asyncio
import faulthandler
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import (
    CredentialSettings,
    EgressSettings,
    PluginSettings,
    ProviderSettings,
    Settings,
    WorkflowSettings,
)
from modelyard.cli.connection_limits import (
    ConnectionLimiter,
    capacity_for,
    raise_file_limit,
)
from modelyard.cli.http_protocol import GuardedConfig
from modelyard.knowledge.entities import DatasetSettings, Technique
from modelyard.plugins.package import package_folder
from modelyard.testing import Answer, Upstream, UpstreamRequest, json_answer
from modelyard.tools.function import tool
from modelyard.workflow.dsl import AppMapping
from tools.show.never_hangs_cases import (
    KINDS,
    NUMBER,
    REQUEST_ID,
    Case,
    Spoken,
    make_cases,
    says_once,
    tool_messages,
)
from tools.show.proof import ROOT

RUN_SECONDS = 60.0
"""Time limit of a run."""
_CASE = re.compile(rb"case (\d+):")


class Outside:
    """The outside server: a provider, a website, a knowledge base and the gates.

    A held run waits at one gate until `release` opens it: before the odd value, or
    after it.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = {case.number: case for case in cases}
        self._turns: dict[int, int] = {}
        self._held: dict[int, str] = {}
        self.arrived: set[int] = set()
        """The cases that wait at their gate."""
        self.upstream = Upstream(self.answer)

    @property
    def origin(self) -> str:
        """The address of the server."""
        return self.upstream.url.removesuffix("/v1")

    def hold(self, gates: Mapping[int, str]) -> None:
        """Hold cases at a gate: `before`, `after` or `model`."""
        self.arrived = set()
        self._held = dict(gates)

    def release(self, gate: str = "") -> None:
        """Open a gate, or all of them."""
        self._held = {
            number: held for number, held in self._held.items() if gate and held != gate
        }

    async def answer(self, request: UpstreamRequest) -> Answer:
        """Answer a request of the server."""
        head, _, path = request.path.partition("?")[0].lstrip("/").partition("/")
        match head:
            case "gate":
                gate, _, number = path.partition("/")
                # A plugin's event need not have the number.
                if number.replace(".", "", 1).isdigit():
                    await self._pass(int(float(number)), gate)
                return json_answer({"ok": True})
            case "value":
                return self._next_answer(int(float(path)), request)
            case "mcp":
                return self._answer_mcp(request)
            case "plugin":
                return self._answer_for_plugin(request)
            case _:
                return await self._asked(request)

    def _answer_mcp(self, request: UpstreamRequest) -> Answer:
        """Answer as an MCP server of a revision with a handshake."""
        message = json.loads(request.body)
        number, method = message.get("id"), message["method"]
        if method == "tools/call":
            answer = self._next_answer(
                int(message["params"]["arguments"]["n"]), request
            )
            body = answer.body.replace(REQUEST_ID, json.dumps(number).encode())
            return replace(answer, body=body)
        if number is None:
            return Answer(status=202)
        results = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "outside", "version": "1"}},
            "tools/list": {"tools": [{"name": "value", "inputSchema": _N_SCHEMA}]},
        }  # fmt: skip
        if method in results:
            return json_answer({"jsonrpc": "2.0", "id": number, "result": results[method]})  # fmt: skip
        error = {"code": -32601, "message": "Method not found"}
        return json_answer({"jsonrpc": "2.0", "id": number, "error": error})

    def _answer_for_plugin(self, request: UpstreamRequest) -> Answer:
        """Answer as the toolbox or as the trigger plugin, which run elsewhere."""
        data = json.loads(request.body)["data"]
        match data["action"]:
            case "invoke_tool":
                return self._next_answer(int(data["tool_parameters"]["a"]), request)
            case "dispatch_trigger_event" | "invoke_trigger_event" as action:
                _, _, body = bytes.fromhex(data["raw_http_request"]).partition(b"\r\n\r\n")  # fmt: skip
                number = int(json.loads(body)["n"])
                answer = self._cases[number].answers[action != "dispatch_trigger_event"]
                assert isinstance(answer, Answer)
                said = answer.body.replace(NUMBER.encode(), str(number).encode())
                return replace(answer, body=said)
            case _:
                return says_once('{"subscription": {"expires_at": -1, "endpoint": "", "parameters": {}, "properties": {}}}')  # fmt: skip

    async def _asked(self, request: UpstreamRequest) -> Answer:
        """Answer as a model or as a knowledge base, which are told the case."""
        numbers = _CASE.findall(request.body)
        if not numbers:
            return json_answer({"error": {"message": "no case"}}, status=400)
        number = int(numbers[-1])
        await self._pass(number, "model")
        return self._next_answer(number, request)

    def _next_answer(self, number: int, request: UpstreamRequest) -> Answer:
        """Return the answer of a case: the first one to a first question, the last one
        to all later ones."""
        # The name of a conversation is written by the model as well.
        answers = self._cases[number].answers or [Spoken([{"content": "A name"}])]
        body = request.body.replace(b" ", b"")
        answer = answers[-1] if b'"role":"tool"' in body else answers[0]
        if isinstance(answer, Answer):
            return answer
        return answer.answer(is_streamed=b'"stream":true' in body)

    async def _pass(self, number: int, gate: str) -> None:
        """Wait until a gate is open for a case."""
        while self._held.get(number) == gate:
            self.arrived.add(number)
            await asyncio.sleep(0.02)


_PLUGINS = {"modelyard/toolbox": "toolbox", "modelyard/pulse": "pulse"}
"""Plugins that the outside server stands for → the folder of each."""
_N_SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "number"}},
    "required": ["n"],
}


def _api_description(origin: str) -> str:
    """Return the OpenAPI description of the outside server's values."""
    parameter = {"name": "n", "in": "path", "required": True, "schema": {"type": "number"}}  # fmt: skip
    operation = {"operationId": "value", "parameters": [parameter], "responses": {}}
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "outside", "version": "1"},
            "servers": [{"url": origin}],
            "paths": {"/value/{n}": {"get": operation}},
        }
    )


def settings_of(home: str, origin: str) -> Settings:
    """Return the settings of the server."""
    credential = CredentialSettings(values={"api_key": "sk-x"})
    provider = ProviderSettings(
        name="openai", base_url=f"{origin}/v1", credentials=[credential]
    )
    return Settings(
        home=home,
        retries=0,
        providers=[provider],
        egress=EgressSettings(private=[origin.removeprefix("http://")]),
        plugins=PluginSettings(
            serverless=dict.fromkeys(_PLUGINS, f"{origin}/plugin"), debug_port=0
        ),
        workflows=WorkflowSettings(seconds=RUN_SECONDS),
    )


async def install(home: str, origin: str) -> dict[str, tuple[str, str]]:
    """Add an app of each kind, and the dataset. Returns the id and the API key by kind."""
    apps: dict[str, tuple[str, str]] = {}
    async with Modelyard(settings_of(home, origin), environ={}) as yard:
        api = await yard.knowledge.external.add("default", "outside", origin, "key")
        dataset = DatasetSettings(
            indexing_technique=Technique.ECONOMY,
            provider="external",
            external_knowledge_api_id=api,
            external_knowledge_id="k",
        )
        await yard.knowledge.datasets.create("default", "outside", settings=dataset)
        providers = yard.services.tools.providers
        await providers.add_api("default", "outside-api", _api_description(origin))
        await _add_plugins(yard)
        await providers.add_mcp("default", "outside-mcp", url=f"{origin}/mcp")
        for name, kind in KINDS.items():
            file, mapping = kind.app(name, origin), AppMapping(models={"*": "openai/gpt-4o"})  # fmt: skip
            app, _, _ = await yard.apps.add("default", file, name=name, mapping=mapping)
            _, key = await yard.apps.make_key(app)
            apps[name] = (app.id, key)
    return apps


async def _add_plugins(yard: Modelyard) -> None:
    """Install the plugins that run elsewhere, and subscribe to the events of one."""
    plugins = yard.services.plugins
    for folder in _PLUGINS.values():
        package = package_folder(ROOT / "examples" / "plugins" / folder)
        await plugins.installations.add("default", package)
    credentials = {"token": "t"}
    await plugins.subscriptions.subscribe("default", "modelyard/pulse", "odd", {}, credentials, origin="http://127.0.0.1")  # fmt: skip


def serve_command(
    home: str, origin: str, port: int, seed: int, count: int
) -> list[str]:
    """Return the command that serves the home folder."""
    module = "tools.show.never_hangs_world"
    return [sys.executable, "-m", module, home, origin, str(port), str(seed), str(count)]  # fmt: skip


def start_server(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the server; its output is appended to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)


async def _serve(home: str, origin: str, port: int, cases: Sequence[Case]) -> None:
    """Serve until the process is killed."""
    by_number = {case.number: case for case in cases}

    @tool(name="odd")
    async def odd(n: float) -> list[Any]:
        """Return what the case says."""
        return tool_messages(by_number[int(n)])

    yard = Modelyard(settings_of(home, origin), environ={})
    await yard.open()
    yard.tools.functions.add(odd)
    gateway = gateway_for(yard.services, on_start=yard.services.upkeep.start)
    limits = yard.settings.connections
    door = ConnectionLimiter(limits, capacity_for(limits, raise_file_limit()))
    config = GuardedConfig(gateway, door, host="127.0.0.1", port=port)
    door.open()
    await uvicorn.Server(config).serve()


def main() -> None:
    """Serve as the command line says."""
    home, origin, port, seed, count = sys.argv[1:]
    # The log then says where the process was if it crashes.
    faulthandler.enable()
    asyncio.run(_serve(home, origin, int(port), make_cases(int(seed), int(count))))


if __name__ == "__main__":
    main()
