"""Sizes, times and frame rates of the console, each compared with its limit."""

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
_RECORD_FRAMES = """() => { window.gaps = []; let last = performance.now();
  const step = now => { window.gaps.push(now - last); last = now; window.stepping = requestAnimationFrame(step); };
  window.stepping = requestAnimationFrame(step); }"""
_STOP_RECORDING = (
    "() => { cancelAnimationFrame(window.stepping); return window.gaps.slice(2); }"
)
_TICKS = os.sysconf("SC_CLK_TCK")


def first_page(chromium_browser: Any, served: Served) -> tuple[int, float]:
    """Return (bytes of JavaScript as transferred, seconds until the first page is
    usable).

    The processor is throttled to a quarter of its speed.
    """
    with person(chromium_browser, served.origin, is_watched=False) as user:
        sizes: list[int] = []

        def note(response: Any) -> None:
            """Add the transferred size of a script."""
            if response.url.endswith(".js"):
                sizes.append(int(response.headers.get("content-length", 0)))

        user.page.on("response", note)
        driver = user.page.context.new_cdp_session(user.page)
        driver.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        # Usable means that a click takes effect. The page measures that itself, from
        # the start of the navigation: a script switches the theme as soon as the
        # control exists and waits for the effect.
        user.page.add_init_script("""
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
        user.goto("/")
        seconds = user.page.evaluate("""() => new Promise(done => {
          const look = () => (window.usable === undefined ? setTimeout(look, 10) : done(window.usable));
          look();
        })""")
        user.page.get_by_role("heading", name="Get started").wait_for()
        return sum(sizes), seconds


def frames(gaps: list[float]) -> tuple[float, float]:
    """Return (frames per second, longest gap between two frames in milliseconds)."""
    return len(gaps) / (sum(gaps) / 1000), max(gaps)


def large_app() -> str:
    """Return a workflow with `NODES` nodes, as the editor exports it."""
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
    for index in range(1, NODES):
        data = {
            "type": "template-transform",
            "title": f"Step {index}",
            "template": "x",
            "variables": [],
        }
        nodes.append(
            {
                "id": f"n{index}",
                "type": "custom",
                "data": data,
                "position": {"x": index % 25 * 280, "y": index // 25 * 140},
            }
        )
        edges.append(
            {
                "source": "start" if index == 1 else f"n{index - 1}",
                "target": f"n{index}",
            }
        )
    graph = {"nodes": nodes, "edges": edges}
    return json.dumps(
        {
            "app": {"name": "large", "mode": "workflow"},
            "kind": "app",
            "version": "0.3.0",
            "workflow": {"graph": graph},
        }
    )


def canvas(
    chromium_browser: Any, served: Served, app: str
) -> dict[str, tuple[float, float]]:
    """Return (frames per second, longest gap in ms) of panning and zooming the workflow
    canvas."""
    frame_rates: dict[str, tuple[float, float]] = {}
    with person(chromium_browser, served.origin) as user:
        user.goto(f"/workflows/{app}")
        user.page.locator(".react-flow__node").nth(50).wait_for()
        user.page.wait_for_timeout(800)
        box = user.page.locator(".react-flow__pane").bounding_box()
        # Near the lower edge of the canvas, where no node catches the pointer.
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] - 12
        user.page.evaluate(_RECORD_FRAMES)
        user.page.mouse.move(x, y)
        user.page.mouse.down()
        for step in range(180):
            user.page.mouse.move(
                x + 150 * ((step % 40) / 20 - 1), y - abs(step % 60 - 30) * 3
            )
        user.page.mouse.up()
        # Record the gaps of panning, then start a new recording for zooming.
        frame_rates["pan"] = frames(user.page.evaluate(_STOP_RECORDING))
        user.page.evaluate(_RECORD_FRAMES)
        user.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for step in range(120):
            user.page.mouse.wheel(0, -30 if step // 30 % 2 == 0 else 30)
            user.page.wait_for_timeout(8)
        frame_rates["zoom"] = frames(user.page.evaluate(_STOP_RECORDING))
    return frame_rates


def fill(home: Path) -> None:
    """Fill the ledger with `ROWS` attempts of the last days, one every 20 seconds."""

    async def create_database() -> None:
        """Start Modelyard once, which creates the database with its tables."""
        async with Modelyard(
            load_settings({**os.environ, "MODELYARD_HOME": str(home)})
        ) as yard:
            await yard.services.calls.ledger.flush()

    asyncio.run(create_database())
    rng, now_seconds = random.Random(9), time.time()
    database = sqlite3.connect(home / "modelyard.db")
    # Read the column order from the database, so that a new column shows up as a
    # KeyError.
    names = [row[1] for row in database.execute("PRAGMA table_info(usage)")]
    rows: list[tuple[Any, ...]] = []
    for index in range(ROWS):
        when = now_seconds - index * 20
        row = {
            "id": f"req_{index:08d}.1",
            "invocation": f"req_{index:08d}",
            "attempt": 1,
            "tenant": "default",
            "api_key": "",
            "user": f"user-{index % 97}",
            "created_at": when,
            "day": int(when // 86_400),
            "provider": "cloud",
            "model": f"model-{index % 7}",
            "model_type": "llm",
            "credential": "one",
            "credential_id": "one",
            "status": "ok" if rng.random() < 0.97 else "upstream_timeout",
            "counted_by": "provider",
            "prompt_tokens": rng.randint(10, 4000),
            "completion_tokens": rng.randint(1, 900),
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "characters": 0,
            "seconds": 0.0,
            "searches": 0,
            "total_price": "0.0012",
            "nanos": 1_200_000,
            "currency": "USD",
            "price_source": "",
            "price_version": "",
            "latency": rng.random() * 4,
            "first_chunk": rng.random(),
        }
        rows.append(tuple(row[name] for name in names))
    marks = ", ".join("?" * len(names))
    database.executemany(f"INSERT INTO usage VALUES ({marks})", rows)
    database.commit()
    database.close()


def long_list(chromium_browser: Any, served: Served) -> tuple[int, float, float, bool]:
    """Return (rows, frames per second, longest gap in ms, whether the last row
    appeared)."""
    with person(chromium_browser, served.origin) as user:
        user.goto("/requests?since=1")
        user.page.get_by_text(f"{ROWS:,} requests").wait_for()
        user.page.locator(".window .line").nth(5).wait_for()
        box = user.page.locator(".rows .window").bounding_box()
        user.page.mouse.move(box["x"] + 300, box["y"] + 200)
        user.page.evaluate(_RECORD_FRAMES)
        # Scroll by wheel as a user does, then jump to the end.
        for _ in range(150):
            user.page.mouse.wheel(0, 900)
            user.page.wait_for_timeout(12)
        speed, longest = frames(user.page.evaluate(_STOP_RECORDING))
        user.page.locator(".rows .window").evaluate(
            "it => { it.scrollTop = it.scrollHeight; }"
        )
        last = user.page.locator(f".window [aria-rowindex='{ROWS + 1}']")
        last.get_by_role("link").wait_for()
        return ROWS, speed, longest, True


def polling(chromium_browser: Any, served: Served, seconds: float = 20.0) -> float:
    """Return the fraction of a CPU core that an open page costs the server, beyond the
    idle server's own use."""

    def used() -> float:
        """Return the CPU seconds that the server has used."""
        stat = (
            Path(f"/proc/{served.pid}/stat")
            .read_text("ascii")
            .rpartition(")")[2]
            .split()
        )
        return (int(stat[11]) + int(stat[12])) / _TICKS

    # Let the start of the server end before its idle use is measured.
    time.sleep(2)
    cpu_before = used()
    time.sleep(seconds)
    alone = used() - cpu_before
    with person(chromium_browser, served.origin) as user:
        user.goto("/")
        user.page.get_by_role("heading", name="Get started").wait_for()
        user.page.wait_for_timeout(3000)
        cpu_before = used()
        user.page.wait_for_timeout(seconds * 1000)
        return max(0.0, used() - cpu_before - alone) / seconds


def prove() -> Proof:
    """Build the console from a clean checkout, measure it and compare the figures with
    their limits."""
    build()
    proof = Proof()
    built = _measure_build(proof)
    proof.figures["build s"] = round(built, 1)
    with tempfile.TemporaryDirectory(prefix="modelyard-figures-") as name:
        home = ready_home(Path(name) / "home")
        fill(home)
        with browser() as chromium_browser, server("", home=home) as served:
            import httpx

            # The canvas needs a workflow on the server.
            app = httpx.post(
                f"{served.origin}/admin/v1/apps", json={"file": large_app()}, timeout=60
            ).json()["id"]
            _report_first_page(proof, *first_page(chromium_browser, served))
            _report_canvas(proof, canvas(chromium_browser, served, app))
            _report_list(proof, *long_list(chromium_browser, served))
            cpu_fraction = polling(chromium_browser, served)
            proof.line(
                "server cost of an open page (under 1 % of a core)",
                f"{cpu_fraction:.2%}",
                cpu_fraction < 0.01,
            )
            proof.figures["polling %"] = round(cpu_fraction * 100, 2)
    return proof


def _report_first_page(proof: Proof, size: int, seconds: float) -> None:
    """Report the size of the first page's JavaScript and the time until it is usable."""
    proof.line(
        "first page: transferred JavaScript (at most 250 kB)",
        f"{size / 1000:.1f} kB",
        0 < size <= 250_000,
    )
    proof.line(
        "first page: usable, at a quarter of the speed (within 1 s)",
        f"{seconds:.2f} s",
        seconds <= 1,
    )
    proof.figures |= {
        "javascript kB": round(size / 1000, 1),
        "usable s": round(seconds, 2),
    }


def _report_canvas(proof: Proof, frame_rates: dict[str, tuple[float, float]]) -> None:
    """Report the frames per second of each action on the canvas."""
    for action, (speed, longest) in frame_rates.items():
        proof.line(
            f"{NODES} nodes: {action} (at least 50 frames a second)",
            f"{speed:.1f}, longest wait {longest:.0f} ms",
            speed >= 50,
        )
    proof.figures |= {
        "pan fps": round(frame_rates["pan"][0], 1),
        "zoom fps": round(frame_rates["zoom"][0], 1),
    }


def _report_list(
    proof: Proof, rows: int, speed: float, longest: float, reached_end: bool
) -> None:
    """Report how smoothly a long list scrolls; `longest` is in milliseconds."""
    proof.line(
        f"{rows:,} requests scrolled (no wait of 250 ms)",
        f"{speed:.1f} frames a second, longest wait {longest:.0f} ms",
        reached_end and longest < 250,
    )
    proof.figures["list longest ms"] = round(longest)


def _measure_build(proof: Proof) -> float:
    """Build the console from a clean checkout; return the seconds that it took."""
    with clean_checkout() as folder:
        # Only the console is built from nothing; the Python environment is reused.
        (folder / ".venv").symlink_to(BUILT.parents[4] / ".venv")
        started_at = time.monotonic()
        subprocess.run(
            ["bash", "console-ui/build"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - started_at
    proof.line(
        "built from nothing, packages fetched (under 60 s)",
        f"{seconds:.1f} s",
        seconds < 60,
    )
    return seconds
