"""The official MCP package against ours, both ways: its client at our server, our client at its server, over every
transport; and a list of what the protocol asks for, held against both sides."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, McpStdioSettings, Settings, ToolSettings
from modelyard.tools.entities import ToolContext
from tools.show.app_clients import environment, serving
from tools.show.proof import ROOT, Proof, free_port, tests

SCRIPTS = ROOT / "tools" / "show" / "app_client_scripts"


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        python = environment("mcp", (3, 11), Path(folder))
        if python is None:
            proof.line("the official package", "needs uv, which is not here", ok=False)
            return proof
        _their_client(proof, python, Path(folder))
        _their_server(proof, python, Path(folder))
    said, ok = tests("tests/tools/test_mcp.py")
    proof.line("what the protocol asks for, and servers that lie", said, ok)
    proof.figures["held"] = f"{sum(ok is True for _, _, ok in proof.lines)} of {len(proof.lines)}"
    return proof


def _their_client(proof: Proof, python: Path, folder: Path) -> None:
    with serving() as told:
        base = told["base"]
        key = told["datasets"]
        import httpx

        with httpx.Client(base_url=base, headers={"authorization": f"Bearer {key}"}, timeout=60) as http:
            row = http.post("/datasets", json={"name": "shop", "indexing_technique": "economy"}).json()["id"]
            text = {
                "name": "hours",
                "text": "The shop opens at nine.",
                "indexing_technique": "economy",
                "process_rule": {"mode": "automatic"},
            }
            http.post(f"/datasets/{row}/document/create-by-text", json=text).raise_for_status()
            for _ in range(100):
                if http.get(f"/datasets/{row}/documents").json()["data"][0]["indexing_status"] == "completed":
                    break
                time.sleep(0.1)
        home = folder / "home"
        home.mkdir()
        given = {"url": base.replace("/v1", "/mcp"), "dataset": True, "python": sys.executable, "home": str(home)}
        done = subprocess.run(
            [str(python), str(SCRIPTS / "calls_mcp.py"), json.dumps(given)],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    if done.returncode:
        proof.line("the official client", done.stderr[-600:], ok=False)
        return
    for what, ok, more in json.loads(done.stdout.splitlines()[-1]):
        proof.line(f"their client, {what}", more, ok)


def _their_server(proof: Proof, python: Path, folder: Path) -> None:
    script = str(SCRIPTS / "serves_mcp.py")
    ports = {"streamable-http": free_port(), "sse": free_port()}
    running = [
        subprocess.Popen([str(python), script, kind, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for kind, port in ports.items()
    ]
    try:
        for port in ports.values():
            _wait(port)
        settings = Settings(
            home=str(folder / "ours"), egress=EgressSettings(private=[f"127.0.0.1:{port}" for port in ports.values()]),
            tools=ToolSettings(mcp_stdio={"official": McpStdioSettings(command=str(python), args=[script, "stdio"])}),
        )  # fmt: skip
        asyncio.run(_use(proof, settings, ports))
    finally:
        for one in running:
            one.terminate()
            one.wait(10)


async def _use(proof: Proof, settings: Settings, ports: dict[str, int]) -> None:
    where: dict[str, dict[str, Any]] = {
        "streamable HTTP": {"url": f"http://127.0.0.1:{ports['streamable-http']}/mcp"},
        "SSE": {"url": f"http://127.0.0.1:{ports['sse']}/sse"}, "stdio": {"stdio": "official"},
    }  # fmt: skip
    async with Modelyard(settings, environ={}) as yard:
        providers = yard.services.tools.providers
        for name, given in where.items():
            row = name.replace(" ", "-")
            _, listing = await providers.add_mcp("default", row, **given)
            names = [one["name"] for one in listing.tools]
            proof.line(
                f"their server, {name}: lists tools",
                f"{len(names)}, revision {listing.version}",
                names == ["add", "info", "bad"],
            )
            context = ToolContext()
            for tool, arguments, wanted in (
                ("add", '{"a": "2", "b": 3}', "5"),
                ("info", '{"q": "x"}', '"q": "x"'),
                ("bad", "{}", "Error executing tool bad"),
            ):
                called = await yard.tools.find("default", "mcp", row, tool)
                found = await yard.tools.observe(called, tool, arguments, context)
                fine = wanted in found.text and bool(found.error) == (tool == "bad")
                proof.line(f"their server, {name}: {tool}", " ".join(found.text.split())[:70], fine)
            known, stored = providers.find("default", row)
            client = await providers.client("default", known.id, stored)
            read = await client.read("note://one")
            prompt = await client.prompt("hello", {"name": "Ada"})
            listed = [one["uri"] for one in await client.resources()], [one["name"] for one in await client.prompts()]
            fine = (
                read[0]["text"] == "a note"
                and "Ada" in str(prompt["messages"])
                and listed == (["note://one"], ["hello"])
            )
            proof.line(f"their server, {name}: resources and prompts", f"{listed}", fine)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                return
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


__all__ = ["prove"]
