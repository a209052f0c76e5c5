"""Kill the host with SIGKILL while its plugins work: none of their processes may be
left after three seconds."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx

from tools.show.odd_plugins import odd_plugin
from tools.show.plugged import EXAMPLES, PluginServer, eventually, server_with_plugins
from tools.show.proof import Proof

_MAX_SECONDS_TO_EXIT = 3.0


def _write_plugins(folder: Path) -> Sequence[Path]:
    """Write one plugin that forks detached children and one that ignores termination
    signals."""
    return [
        odd_plugin(folder, "forks", extension_type="tools"),
        odd_plugin(folder, "deaf", extension_type="tools"),
    ]


def _start_load(served: PluginServer) -> None:
    """Put every plugin to work in background threads before the host is killed."""
    key = (served.home / "plugin.key").read_text().strip()
    tools = {"odd/forks": "forks", "odd/deaf": "deaf"}

    def tool(plugin: str, provider: str) -> None:
        """Call a tool that does not return by itself."""
        data = {
            "provider": provider,
            "tool": "odd",
            "credentials": {},
            "tool_parameters": {},
        }
        try:
            httpx.post(
                f"{served.origin}/plugin/default/dispatch/tool/invoke",
                json={"user_id": "u", "data": data},
                headers={"x-api-key": key, "x-plugin-id": plugin},
                timeout=30,
            )
        except httpx.HTTPError:
            return  # the host was killed

    def chat() -> None:
        """Send chat requests until the host has exited."""
        body = {
            "model": "mockgpt/mock-gpt-v1",
            "messages": [{"role": "user", "content": "hi"}],
        }
        try:
            while True:
                with served.client() as client:
                    client.post("/chat/completions", json=body)
        except httpx.HTTPError:
            return

    for plugin, provider in tools.items():
        threading.Thread(target=tool, args=(plugin, provider), daemon=True).start()
    threading.Thread(target=chat, daemon=True).start()


def prove() -> Proof:
    """Kill the host under load and measure how long its plugin processes survive."""
    proof = Proof()
    with server_with_plugins(
        EXAMPLES / "mockgpt", EXAMPLES / "toolbox", make=_write_plugins
    ) as served:
        _start_load(served)
        eventually(
            lambda: {"forks", "deaf", "mockgpt"} <= set(served.plugins().values()), 60
        )
        # The forking plugin has at least four processes once its children run; kill the
        # host only then.
        eventually(
            lambda: sum(name == "forks" for name in served.plugins().values()) >= 4, 60
        )
        plugins_before, supervisors = served.plugins(), served.supervisor_pids()
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        # Wait longer than is allowed, so that a late exit is measured and not only
        # reported as missing.
        seconds_to_exit = eventually(
            lambda: (
                not served.plugins()
                and not any(Path(f"/proc/{pid}").exists() for pid in supervisors)
            ),
            60,
        )
        left = served.plugins()
    proof.line("plugin processes before", len(plugins_before), len(plugins_before) >= 6)
    proof.line("supervisors before", len(supervisors), len(supervisors) >= 1)
    proof.line("still running after the host was killed", len(left), not left)
    proof.line(
        "all exited after",
        f"{seconds_to_exit:.2f} s" if seconds_to_exit is not None else "never",
        seconds_to_exit is not None and seconds_to_exit <= _MAX_SECONDS_TO_EXIT,
    )
    proof.figures |= {
        "before": len(plugins_before),
        "left": len(left),
        "seconds": seconds_to_exit,
    }
    return proof
