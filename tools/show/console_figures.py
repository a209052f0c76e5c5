"""Sizes, times and frames of the console, each beside what it may be."""

import asyncio
import os
import random
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from tools.show.browser import BUILT, Served, browser, build, person, server
from tools.show.proof import Proof, clean_checkout, ready_home

ROWS = 100_000
NODES = 500
_LONG = """() => { window.gaps = []; let last = performance.now();
  const step = now => { window.gaps.push(now - last); last = now; window.stepping = requestAnimationFrame(step); };
  window.stepping = requestAnimationFrame(step); }"""
_ENDED = "() => { cancelAnimationFrame(window.stepping); return window.gaps.slice(2); }"
_TICKS = os.sysconf("SC_CLK_TCK")


def first_page(made: Any, served: Served) -> tuple[int, float]:
    """(bytes of JavaScript as they travel, seconds until it can be used at a quarter of this processor's speed)."""
    with person(made, served.origin, is_watched=False) as one:
        sizes: list[int] = []

        def note(response: Any) -> None:
            if response.url.endswith(".js"):
                sizes.append(int(response.headers.get("content-length", 0)))

        one.page.on("response", note)
        driver = one.page.context.new_cdp_session(one.page)
        driver.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        # Usable: what is pressed is done. The page itself tells when, from its navigation on.
        one.page.add_init_script("""
          new MutationObserver((_, watch) => {
            const choice = document.querySelectorAll('header select')[1];
            if (!choice || !document.querySelector('main h1')) return;
            watch.disconnect();
            new MutationObserver((__, seen) => { seen.disconnect(); window.usable = performance.now() / 1000; })
              .observe(document.documentElement, { attributeFilter: ['data-theme'] });
            Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set.call(choice, 'dark');
            choice.dispatchEvent(new Event('change', { bubbles: true }));
          }).observe(document, { childList: true, subtree: true });
        """)
        one.goto("/")
        seconds = one.page.evaluate("""() => new Promise(done => {
          const look = () => (window.usable === undefined ? setTimeout(look, 10) : done(window.usable));
          look();
        })""")
        one.page.get_by_role("heading", name="First steps").wait_for()
        return sum(sizes), seconds


def frames(gaps: list[float]) -> tuple[float, float]:
    """(frames a second, the longest wait for one in milliseconds)."""
    return len(gaps) / (sum(gaps) / 1000), max(gaps)


def large_app() -> str:
    """A workflow of `NODES` nodes, as an editor exports one."""
    import json

    nodes = [
        {
            "id": "start",
            "type": "custom",
            "data": {"type": "start", "title": "Start", "variables": []},
            "position": {"x": 0, "y": 0},
        }
    ]
    edges: list[dict[str, str]] = []
    for at in range(1, NODES):
        data = {"type": "template-transform", "title": f"Step {at}", "template": "x", "variables": []}
        nodes.append(
            {"id": f"n{at}", "type": "custom", "data": data, "position": {"x": at % 25 * 280, "y": at // 25 * 140}}
        )
        edges.append({"source": "start" if at == 1 else f"n{at - 1}", "target": f"n{at}"})
    graph = {"nodes": nodes, "edges": edges}
    return json.dumps(
        {"app": {"name": "large", "mode": "workflow"}, "kind": "app", "version": "0.3.0", "workflow": {"graph": graph}}
    )


def canvas(made: Any, served: Served, app: str) -> dict[str, tuple[float, float]]:
    """Of panning and zooming: (frames a second, the longest wait)."""
    found: dict[str, tuple[float, float]] = {}
    with person(made, served.origin) as one:
        one.goto(f"/workflows/{app}")
        one.page.locator(".react-flow__node").nth(50).wait_for()
        one.page.wait_for_timeout(800)
        box = one.page.locator(".react-flow__pane").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] - 12
        one.page.evaluate(_LONG)
        one.page.mouse.move(x, y)
        one.page.mouse.down()
        for step in range(180):
            one.page.mouse.move(x + 150 * ((step % 40) / 20 - 1), y - abs(step % 60 - 30) * 3)
        one.page.mouse.up()
        found["pan"] = frames(one.page.evaluate(_ENDED))
        one.page.evaluate(_LONG)
        one.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for step in range(120):
            one.page.mouse.wheel(0, -30 if step // 30 % 2 == 0 else 30)
            one.page.wait_for_timeout(8)
        found["zoom"] = frames(one.page.evaluate(_ENDED))
    return found


def fill(home: Path) -> None:
    """A ledger with `ROWS` attempts of the last days, written as the ledger itself would have."""

    async def begin() -> None:
        async with Modelyard(load_settings({**os.environ, "MODELYARD_HOME": str(home)})) as yard:
            await yard.services.calls.ledger.flush()

    asyncio.run(begin())
    rng, now = random.Random(9), time.time()
    database = sqlite3.connect(home / "modelyard.db")
    names = [row[1] for row in database.execute("PRAGMA table_info(usage)")]
    rows: list[tuple[Any, ...]] = []
    for at in range(ROWS):
        when = now - at * 20
        row = {
            "id": f"req_{at:08d}.1", "invocation": f"req_{at:08d}", "attempt": 1, "tenant": "default", "api_key": "",
            "user": f"user-{at % 97}", "created_at": when, "day": int(when // 86_400), "provider": "cloud",
            "model": f"model-{at % 7}", "model_type": "llm", "credential": "one", "credential_id": "one",
            "status": "ok" if rng.random() < 0.97 else "upstream_timeout", "counted_by": "provider",
            "prompt_tokens": rng.randint(10, 4000), "completion_tokens": rng.randint(1, 900), "cached_tokens": 0,
            "cache_write_tokens": 0, "reasoning_tokens": 0, "characters": 0, "seconds": 0.0, "searches": 0,
            "total_price": "0.0012", "nanos": 1_200_000, "currency": "USD", "price_source": "", "price_version": "",
            "latency": rng.random() * 4, "first_chunk": rng.random(),
        }  # fmt: skip
        rows.append(tuple(row[name] for name in names))
    marks = ", ".join("?" * len(names))
    database.executemany(f"INSERT INTO usage VALUES ({marks})", rows)
    database.commit()
    database.close()


def long_list(made: Any, served: Served) -> tuple[int, float, float, bool]:
    """(rows, frames a second, the longest wait, whether its last row came up)."""
    with person(made, served.origin) as one:
        one.goto("/requests?since=1")
        one.page.get_by_text(f"{ROWS:,} attempts").wait_for()
        one.page.locator(".window .line").nth(5).wait_for()
        box = one.page.locator(".rows .window").bounding_box()
        one.page.mouse.move(box["x"] + 300, box["y"] + 200)
        one.page.evaluate(_LONG)
        for _ in range(150):
            one.page.mouse.wheel(0, 900)
            one.page.wait_for_timeout(12)
        speed, longest = frames(one.page.evaluate(_ENDED))
        one.page.locator(".rows .window").evaluate("it => { it.scrollTop = it.scrollHeight; }")
        last = one.page.locator(f".window [aria-rowindex='{ROWS + 1}']")
        last.get_by_role("link").wait_for()
        return ROWS, speed, longest, True


def polling(made: Any, served: Served, seconds: float = 20.0) -> float:
    """The share of a core that an open page costs the server, beside the server alone."""

    def used() -> float:
        stat = Path(f"/proc/{served.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    time.sleep(2)
    before = used()
    time.sleep(seconds)
    alone = used() - before
    with person(made, served.origin) as one:
        one.goto("/")
        one.page.get_by_role("heading", name="First steps").wait_for()
        one.page.wait_for_timeout(3000)
        before = used()
        one.page.wait_for_timeout(seconds * 1000)
        return max(0.0, used() - before - alone) / seconds


def prove() -> Proof:
    build()
    proof = Proof()
    with clean_checkout() as folder:
        (folder / ".venv").symlink_to(BUILT.parents[4] / ".venv")
        begun = time.monotonic()
        subprocess.run(["bash", "console-ui/build"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        built = time.monotonic() - begun
    proof.line("built from nothing, packages fetched (under 60 s)", f"{built:.1f} s", built < 60)
    with tempfile.TemporaryDirectory(prefix="modelyard-figures-") as name:
        home = ready_home(Path(name) / "home")
        fill(home)
        with browser() as made, server("", home=home) as served:
            import httpx

            app = httpx.post(f"{served.origin}/admin/v1/apps", json={"file": large_app()}, timeout=60).json()["id"]
            size, seconds = first_page(made, served)
            proof.line(
                "first page: JavaScript as it travels (at most 250 kB)", f"{size / 1000:.1f} kB", 0 < size <= 250_000
            )
            proof.line("first page: usable, at a quarter of the speed (within 1 s)", f"{seconds:.2f} s", seconds <= 1)
            shown = canvas(made, served, app)
            for what, (speed, longest) in shown.items():
                proof.line(
                    f"{NODES} nodes: {what} (at least 50 frames a second)",
                    f"{speed:.1f}, longest wait {longest:.0f} ms",
                    speed >= 50,
                )
            rows, speed, longest, came = long_list(made, served)
            proof.line(
                f"{rows:,} requests scrolled (no wait of 250 ms)",
                f"{speed:.1f} frames a second, longest wait {longest:.0f} ms",
                came and longest < 250,
            )
            share = polling(made, served)
            proof.line("an open page's cost to the server (under 1 % of a core)", f"{share:.2%}", share < 0.01)
    proof.figures = {
        "build s": round(built, 1), "javascript kB": round(size / 1000, 1), "usable s": round(seconds, 2),
        "pan fps": round(shown["pan"][0], 1), "zoom fps": round(shown["zoom"][0], 1), "list longest ms": round(longest),
        "polling %": round(share * 100, 2),
    }  # fmt: skip
    return proof
