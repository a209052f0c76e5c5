"""Chromium before a real server, and somebody who uses it: by pointer or by keyboard alone.

Traffic goes to loopback only: whatever else a page asked for would be refused, and is noted.
"""

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.show.proof import ROOT, free_port, ready_home, running, serve_command, weights_folder

BUILT = ROOT / "src" / "modelyard" / "gateway" / "console" / "index.html"
AXE = ROOT / "console-ui" / "node_modules" / "axe-core" / "axe.min.js"
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_MOST_TABS = 400


def chromium() -> str | None:
    """Where there is one: `MODELYARD_CHROMIUM`, else by its usual names."""
    named = os.environ.get("MODELYARD_CHROMIUM")
    found = [named, *(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))]
    return next((one for one in found if one and Path(one).exists()), None)


def build() -> None:
    """The console as it is now. Raises CalledProcessError."""
    subprocess.run(["make", "-s", "console"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@dataclass
class Served:
    origin: str
    home: Path
    pid: int


@contextmanager
def server(settings: str = "", *, home: Path, local: bool = False, **environ: str) -> Generator[Served]:
    """`modelyard serve` with a home of its own; `local`: with the models of this machine."""
    if not (home / "plugins").exists():
        ready_home(home)
    (home / "modelyard.yaml").write_text(settings or "plugins: {debug_port: 0}\n", "utf-8")
    port = free_port()
    told = {
        "MODELYARD_HOME": str(home), "MODELYARD_LOCAL__WEIGHTS": str(weights_folder()),
        "MODELYARD_LOCAL__ENABLED": str(local).lower(), "MODELYARD_PLUGINS__DEBUG_PORT": "0", **environ,
    }  # fmt: skip
    with running(serve_command(), port, environ=told) as (process, _):
        yield Served(f"http://127.0.0.1:{port}", home, process.pid)


@contextmanager
def browser() -> Generator[Any]:
    """Playwright's, on this machine's Chromium."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RuntimeError("there is no Chromium here: install Debian's `chromium`, or set MODELYARD_CHROMIUM")
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield made
        finally:
            made.close()


@dataclass
class Person:
    """Somebody before a page. With `keyboard`, no pointer is ever used: what Tab does not reach cannot be done."""

    page: Any
    origin: str
    keyboard: bool = False
    wrongs: list[str] = field(default_factory=list[str])
    """What the browser complained of: errors, refusals of the policy, addresses elsewhere."""
    elsewhere: list[str] = field(default_factory=list[str])

    def goto(self, path: str) -> None:
        self.page.goto(f"{self.origin}/console{path}")

    def named(self, role: str, name: str, *, within: Any = None, exact: bool = True) -> Any:
        return (within or self.page).get_by_role(role, name=name, exact=exact).first

    def _reach(self, target: Any) -> None:
        """Press Tab until the target has the focus; arrow keys within tab lists, which take one stop together."""
        target.wait_for(state="visible")
        if target.evaluate("it => it.matches('[role=tab]')"):
            lists = self.page.locator("[role=tablist] [role=tab][data-selected]").first
            self._tab_to(lists)
            for _ in range(20):
                if target.evaluate("it => it === document.activeElement"):
                    return
                self.page.keyboard.press("ArrowRight")
            raise AssertionError("the tab cannot be reached by arrow keys")
        self._tab_to(target)

    def _tab_to(self, target: Any) -> None:
        if target.evaluate("it => it === document.activeElement"):
            return
        for _ in range(_MOST_TABS):
            self.page.keyboard.press("Tab")
            if target.evaluate("it => it === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {target}")

    def press(self, target: Any) -> None:
        """A button, a link, a tab, a switch, a check box."""
        if not self.keyboard:
            # The box of a switch lies behind what is drawn for it.
            is_drawn = target.evaluate("it => it.matches('.switch input')")
            (target.locator("xpath=ancestor::label") if is_drawn else target).click()
            return
        kind = target.evaluate("it => `${it.tagName} ${it.type || ''} ${it.getAttribute('role') || ''}`").lower()
        self._reach(target)
        self.page.keyboard.press("Space" if "checkbox" in kind or "switch" in kind else "Enter")

    def write(self, target: Any, text: str) -> None:
        if not self.keyboard:
            target.fill(text)
            return
        self._reach(target)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(text)

    def choose(self, target: Any, option: str) -> None:
        """An option of a list, by its label."""
        if not self.keyboard:
            target.select_option(label=option)
            return
        self._reach(target)
        # A list that nobody opened takes the beginnings of its options.
        labels: list[str] = target.evaluate("it => [...it.options].map(one => one.label)")
        here, wanted = target.evaluate("it => it.selectedIndex"), labels.index(option)
        for _ in range(abs(wanted - here)):
            self.page.keyboard.press("ArrowDown" if wanted > here else "ArrowUp")

    def pick(self, button: Any, item: str) -> None:
        """What a button offers in a menu."""
        self.press(button)
        menu = self.page.get_by_role("menu")
        chosen = menu.get_by_role("menuitem", name=item, exact=True)
        chosen.wait_for(state="visible")
        if not self.keyboard:
            chosen.click()
            return
        for _ in range(100):
            if chosen.evaluate("it => it === document.activeElement"):
                self.page.keyboard.press("Enter")
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"arrow keys do not reach {item!r}")

    def upload(self, target: Any, path: Path) -> None:
        """The field is reached as everything else; the system's own dialog is no part of the page."""
        if self.keyboard:
            self._reach(target)
        target.set_input_files(str(path))

    def sees(self, text: str, seconds: float = 20.0) -> None:
        """Raises where the text does not come up."""
        self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=seconds * 1000)


@contextmanager
def person(
    made: Any, origin: str, *, keyboard: bool = False, language: str = "en", is_watched: bool = True, **how: Any
) -> Generator[Person]:
    """A new browser profile, in a language. `is_watched`: whatever it asks for is looked at, which takes time."""
    context = made.new_context(
        locale={"en": "en-US", "zh": "zh-CN"}[language], viewport={"width": 1280, "height": 900}, **how
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    one = Person(page, origin, keyboard)
    page.on("console", lambda said: one.wrongs.append(said.text) if _is_wrong(said) else None)
    page.on("pageerror", lambda error: one.wrongs.append(str(error)))

    def pass_on(route: Any) -> None:
        url = route.request.url
        if url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            one.elsewhere.append(url)
            route.abort()

    if is_watched:
        page.route("**/*", pass_on)
    try:
        yield one
    finally:
        context.close()


def _is_wrong(said: Any) -> bool:
    """A request that was refused with words is the page's to show, and no fault of it."""
    return said.type == "error" and "Failed to load resource" not in said.text


def violations(page: Any) -> list[str]:
    """What axe-core finds: a line each."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("rules => axe.run({resultTypes: ['violations'], runOnly: rules})", _RULES)
    return [f"{one['id']}: {one['nodes'][0]['target']}" for one in found["violations"]]


def lines_of(wrongs: Iterator[str] | list[str]) -> str:
    return "; ".join(one[:200] for one in wrongs)
