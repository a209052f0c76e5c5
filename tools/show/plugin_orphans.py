"""Kill -9 the host while its plugins work: nothing of theirs is left after three seconds."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx

from tools.show.odd_plugins import odd_plugin
from tools.show.plugged import EXAMPLES, Served, eventually, plugged
from tools.show.proof import Proof


def _odd(folder: Path) -> Sequence[Path]:
    return [odd_plugin(folder, "forks", kind="tools"), odd_plugin(folder, "deaf", kind="tools")]


def _busy(served: Served) -> None:
    """Have every plugin at work when the host dies."""
    key = (served.home / "plugin.key").read_text().strip()
    tools = {"odd/forks": "forks", "odd/deaf": "deaf"}

    def tool(plugin: str, provider: str) -> None:
        data = {"provider": provider, "tool": "odd", "credentials": {}, "tool_parameters": {}}
        try:
            httpx.post(
                f"{served.origin}/plugin/default/dispatch/tool/invoke", json={"user_id": "u", "data": data},
                headers={"x-api-key": key, "x-plugin-id": plugin}, timeout=30,
            )  # fmt: skip
        except httpx.HTTPError:
            return  # the host was killed

    def chat() -> None:
        body = {"model": "mockgpt/mock-gpt-v1", "messages": [{"role": "user", "content": "hi"}]}
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
    proof = Proof()
    with plugged(EXAMPLES / "mockgpt", EXAMPLES / "toolbox", make=_odd) as served:
        _busy(served)
        eventually(lambda: {"forks", "deaf", "mockgpt"} <= set(served.plugins().values()), 30)
        eventually(lambda: sum(name == "forks" for name in served.plugins().values()) >= 4, 10)
        before, wardens = served.plugins(), served.wardens()
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        gone = eventually(lambda: not served.plugins() and not any(Path(f"/proc/{one}").exists() for one in wardens), 9)
        left = served.plugins()
    proof.line("processes of plugins before", len(before), len(before) >= 6)
    proof.line("wardens before", len(wardens), len(wardens) >= 1)
    proof.line("left after the host was killed", len(left), not left)
    proof.line("all gone after", f"{gone:.2f} s" if gone is not None else "never", gone is not None and gone <= 3)
    proof.figures |= {"before": len(before), "left": len(left), "seconds": gone}
    return proof
