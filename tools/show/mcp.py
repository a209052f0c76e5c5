"""Interoperability with the official MCP package in both directions, over every
transport, and the protocol's requirements checked on both sides."""

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
from modelyard.base.settings import (
    EgressSettings,
    McpStdioSettings,
    Settings,
    ToolSettings,
)
from modelyard.tools.entities import ToolContext
from tools.show.app_clients import environment, serving
from tools.show.proof import ROOT, Proof, free_port, tests

SCRIPTS = ROOT / "tools" / "show" / "app_client_scripts"


def prove() -> Proof:
    """Run the official client against our server, our client against the official
    server, and the protocol tests."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        # The official package has its own environment, because its dependencies must
        # not mix with ours.
        python = environment("mcp", (3, 11), Path(folder))
        if python is None:
            proof.line(
                "the official package", "needs uv, which is not installed", ok=False
            )
            return proof
        _their_client(proof, python, Path(folder))
        _their_server(proof, python, Path(folder))
    summary, ok = tests("tests/tools/test_mcp.py")
    proof.line("requirements of the protocol, and misbehaving servers", summary, ok)
    proof.figures["held"] = (
        f"{sum(ok is True for _, _, ok in proof.lines)} of {len(proof.lines)}"
    )
    return proof


def _their_client(proof: Proof, python: Path, folder: Path) -> None:
    """Run the official client against our server and report its checks."""
    with serving() as server_info:
        base = server_info["base"]
        key = server_info["datasets"]
        import httpx

        with httpx.Client(
            base_url=base, headers={"authorization": f"Bearer {key}"}, timeout=60
        ) as http:
            row = http.post(
                "/datasets", json={"name": "shop", "indexing_technique": "economy"}
            ).json()["id"]
            text = {
                "name": "hours",
                "text": "The shop opens at nine.",
                "indexing_technique": "economy",
                "process_rule": {"mode": "automatic"},
            }
            http.post(
                f"/datasets/{row}/document/create-by-text", json=text
            ).raise_for_status()
            # The dataset tool can find the document only after it is indexed.
            for _ in range(100):
                if (
                    http.get(f"/datasets/{row}/documents").json()["data"][0][
                        "indexing_status"
                    ]
                    == "completed"
                ):
                    break
                time.sleep(0.1)
        home = folder / "home"
        home.mkdir()
        script_arguments = {
            "url": base.replace("/v1", "/mcp"),
            "dataset": True,
            "python": sys.executable,
            "home": str(home),
        }
        process = subprocess.run(
            [str(python), str(SCRIPTS / "calls_mcp.py"), json.dumps(script_arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    if process.returncode:
        proof.line("the official client", process.stderr[-600:], ok=False)
        return
    # The script prints its checks as JSON in the last line.
    for check_name, ok, details in json.loads(process.stdout.splitlines()[-1]):
        proof.line(f"official client, {check_name}", details, ok)


def _their_server(proof: Proof, python: Path, folder: Path) -> None:
    """Start the official server on its three transports and use it with our client."""
    script = str(SCRIPTS / "serves_mcp.py")
    ports = {"streamable-http": free_port(), "sse": free_port()}
    running = [
        subprocess.Popen(
            [str(python), script, transport, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for transport, port in ports.items()
    ]
    try:
        for port in ports.values():
            _wait(port)
        # The servers are on loopback, which egress blocks unless it is listed as
        # private. Stdio servers must be configured by the operator.
        settings = Settings(
            home=str(folder / "ours"),
            egress=EgressSettings(
                private=[f"127.0.0.1:{port}" for port in ports.values()]
            ),
            tools=ToolSettings(
                mcp_stdio={
                    "official": McpStdioSettings(
                        command=str(python), args=[script, "stdio"]
                    )
                }
            ),
        )
        asyncio.run(_use(proof, settings, ports))
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


async def _use(proof: Proof, settings: Settings, ports: dict[str, int]) -> None:
    """List and call tools, and read resources and prompts, over each transport."""
    where: dict[str, dict[str, Any]] = {
        "streamable HTTP": {"url": f"http://127.0.0.1:{ports['streamable-http']}/mcp"},
        "SSE": {"url": f"http://127.0.0.1:{ports['sse']}/sse"},
        "stdio": {"stdio": "official"},
    }
    async with Modelyard(settings, environ={}) as yard:
        providers = yard.services.tools.providers
        for name, provider_options in where.items():
            row = name.replace(" ", "-")
            _, listing = await providers.add_mcp("default", row, **provider_options)
            names = [listed_tool["name"] for listed_tool in listing.tools]
            proof.line(
                f"official server, {name}: lists tools",
                f"{len(names)}, revision {listing.version}",
                # All three transports must list the same tools in the same order.
                names == ["add", "info", "bad"],
            )
            context = ToolContext()
            for tool, arguments, expected_text in (
                # The integer is passed as a string on purpose: arguments must be
                # converted by the tool's schema.
                ("add", '{"a": "2", "b": 3}', "5"),
                ("info", '{"q": "x"}', '"q": "x"'),
                ("bad", "{}", "Error executing tool bad"),
            ):
                called = await yard.tools.find("default", "mcp", row, tool)
                observation = await yard.tools.observe(called, tool, arguments, context)
                # Only the tool `bad` may return an error.
                fine = expected_text in observation.text and bool(
                    observation.error
                ) == (tool == "bad")
                proof.line(
                    f"official server, {name}: {tool}",
                    " ".join(observation.text.split())[:70],
                    fine,
                )
            provider, provider_record = providers.find("default", row)
            client = await providers.client("default", provider.id, provider_record)
            read = await client.read("note://one")
            prompt = await client.prompt("hello", {"name": "Ada"})
            listed = (
                [resource["uri"] for resource in await client.resources()],
                [listed_prompt["name"] for listed_prompt in await client.prompts()],
            )
            fine = (
                read[0]["text"] == "a note"
                and "Ada" in str(prompt["messages"])
                and listed == (["note://one"], ["hello"])
            )
            proof.line(
                f"official server, {name}: resources and prompts", f"{listed}", fine
            )


def _wait(port: int) -> None:
    """Wait up to 20 s until a port accepts connections."""
    for _ in range(200):
        try:
            urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
        except URLError as error:
            # Any HTTP error means that the server is running.
            if not isinstance(error.reason, ConnectionRefusedError):
                return
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


__all__ = ["prove"]
