"""Chromium in front of a real server, and a simulated user with a pointer or with the
keyboard alone.

Pages may use loopback only: any other request is refused and recorded.
"""

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.show.proof import (
    ROOT,
    free_port,
    ready_home,
    running,
    serve_command,
    weights_folder,
)

BUILT = ROOT / "src" / "modelyard" / "gateway" / "console" / "index.html"
AXE = ROOT / "console-ui" / "node_modules" / "axe-core" / "axe.min.js"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_MAX_TABS = 400


def chromium() -> str | None:
    """Return the path of Chromium (`MODELYARD_CHROMIUM`, else the usual names), or None
    if there is none."""
    configured_path = os.environ.get("MODELYARD_CHROMIUM")
    candidates = [
        configured_path,
        *(
            shutil.which(name)
            for name in ("chromium", "chromium-browser", "google-chrome")
        ),
    ]
    return next(
        (
            candidate
            for candidate in candidates
            if candidate and Path(candidate).exists()
        ),
        None,
    )


def build() -> None:
    """Build the console from its current sources. Raises CalledProcessError if that
    fails."""
    subprocess.run(
        ["make", "-s", "console"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


@dataclass
class Served:
    """A running server: its origin, home folder and process id."""

    origin: str
    home: Path
    pid: int


@contextmanager
def server(
    settings: str = "", *, home: Path, local: bool = False, **environ: str
) -> Generator[Served]:
    """Run `modelyard serve` with its own home folder and yield it.

    With `local`, the local models are enabled.
    """
    # A home that was used before is kept, so that a server can be restarted on its
    # data.
    if not (home / "plugins").exists():
        ready_home(home)
    (home / "modelyard.yaml").write_text(
        settings or "plugins: {debug_port: 0}\n", "utf-8"
    )
    port = free_port()
    server_environ = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_LOCAL__WEIGHTS": str(weights_folder()),
        "MODELYARD_LOCAL__ENABLED": str(local).lower(),
        "MODELYARD_PLUGINS__DEBUG_PORT": "0",
        **environ,
    }
    with running(serve_command(), port, environ=server_environ) as (process, _):
        yield Served(f"http://127.0.0.1:{port}", home, process.pid)


@contextmanager
def browser() -> Generator[Any]:
    """Yield Playwright's browser, with the Chromium of this machine. Raises
    RuntimeError if there is none."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RuntimeError(
            "there is no Chromium here: install Debian's `chromium`, or set MODELYARD_CHROMIUM"
        )
    with sync_playwright() as driver:
        chromium_browser = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield chromium_browser
        finally:
            chromium_browser.close()


@dataclass
class Person:
    """A user in front of a page.

    With `keyboard`, the pointer is never used: an element that Tab does not reach
    cannot be used.
    """

    page: Any
    origin: str
    keyboard: bool = False
    problems: list[str] = field(default_factory=list[str])
    """Problems reported by the browser: errors and violations of the content security
    policy."""
    foreign_urls: list[str] = field(default_factory=list[str])
    """URLs outside the server that the page requested."""

    def goto(self, path: str) -> None:
        """Open a page of the console."""
        self.page.goto(f"{self.origin}/console{path}")

    def element(
        self, role: str, name: str, *, within: Any = None, exact: bool = True
    ) -> Any:
        """Return the first element with the ARIA role and accessible name."""
        return (within or self.page).get_by_role(role, name=name, exact=exact).first

    def _reach(self, target: Any) -> None:
        """Move the focus to the target with Tab, or with arrow keys inside a tab list,
        which is a single tab stop."""
        target.wait_for(state="visible")
        # Only the selected tab of a list can be reached by Tab; the others follow by
        # arrow key.
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
        """Press Tab until the target has the focus. Raises AssertionError if it is not
        reached."""
        # The target may have the focus already.
        if target.evaluate("it => it === document.activeElement"):
            return
        for _ in range(_MAX_TABS):
            self.page.keyboard.press("Tab")
            if target.evaluate("it => it === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {target}")

    def press(self, target: Any) -> None:
        """Activate a button, link, tab, switch or check box."""
        if not self.keyboard:
            # The input of a switch lies behind its drawing, so click the label.
            is_drawn = target.evaluate("it => it.matches('.switch input')")
            (target.locator("xpath=ancestor::label") if is_drawn else target).click()
            return
        element_description = target.evaluate(
            "it => `${it.tagName} ${it.type || ''} ${it.getAttribute('role') || ''}`"
        ).lower()
        self._reach(target)
        # Enter activates buttons and links, Space toggles boxes.
        self.page.keyboard.press(
            "Space"
            if "checkbox" in element_description or "switch" in element_description
            else "Enter"
        )

    def write(self, target: Any, text: str) -> None:
        """Replace the text of a field."""
        if not self.keyboard:
            target.fill(text)
            return
        self._reach(target)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(text)

    def choose(self, target: Any, option: str) -> None:
        """Select an option of a list by its label."""
        if not self.keyboard:
            target.select_option(label=option)
            return
        self._reach(target)
        # In a closed list, arrow keys select the neighbouring option.
        labels: list[str] = target.evaluate(
            "it => [...it.options].map(one => one.label)"
        )
        current_index, target_index = (
            target.evaluate("it => it.selectedIndex"),
            labels.index(option),
        )
        for _ in range(abs(target_index - current_index)):
            self.page.keyboard.press(
                "ArrowDown" if target_index > current_index else "ArrowUp"
            )

    def pick(self, button: Any, item: str) -> None:
        """Open a button's menu and choose an item."""
        self.press(button)
        menu = self.page.get_by_role("menu")
        menu_item = menu.get_by_role("menuitem", name=item, exact=True)
        menu_item.wait_for(state="visible")
        if not self.keyboard:
            menu_item.click()
            return
        # Menus are navigated by arrow keys, not by Tab.
        for _ in range(100):
            if menu_item.evaluate("it => it === document.activeElement"):
                self.page.keyboard.press("Enter")
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"arrow keys do not reach {item!r}")

    def upload(self, target: Any, path: Path) -> None:
        """Set the file of an upload field; the operating system's file dialog is not
        used."""
        if self.keyboard:
            self._reach(target)
        target.set_input_files(str(path))

    def wait_for_text(self, text: str, seconds: float = 20.0) -> None:
        """Wait until the text is visible. Raises Playwright's TimeoutError if it does
        not appear."""
        self.page.get_by_text(text).locator("visible=true").first.wait_for(
            timeout=seconds * 1000
        )


@contextmanager
def person(
    chromium_browser: Any,
    origin: str,
    *,
    keyboard: bool = False,
    language: str = "en",
    is_watched: bool = True,
    **context_options: Any,
) -> Generator[Person]:
    """Yield a user with a new browser profile in a language.

    With `is_watched`, each request is checked for foreign hosts, which is slower.
    """
    context = chromium_browser.new_context(
        locale={"en": "en-US", "zh": "zh-CN"}[language],
        viewport={"width": 1280, "height": 900},
        **context_options,
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    user = Person(page, origin, keyboard)
    page.on(
        "console",
        lambda message: (
            user.problems.append(message.text) if _is_wrong(message) else None
        ),
    )
    page.on("pageerror", lambda error: user.problems.append(str(error)))

    def pass_on(route: Any) -> None:
        """Let requests to the server pass; record and abort all others."""
        url = route.request.url
        if url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            user.foreign_urls.append(url)
            route.abort()

    if is_watched:
        page.route("**/*", pass_on)
    try:
        yield user
    finally:
        context.close()


def _is_wrong(message: Any) -> bool:
    """Return whether a console message is a fault of the page.

    A refused request is not: the page reports it to the user itself.
    """
    return message.type == "error" and "Failed to load resource" not in message.text


def violations(page: Any) -> list[str]:
    """Return the violations that axe-core finds on the page, one line each."""
    # axe-core is injected into the page as source, because the page loads no foreign
    # scripts.
    page.evaluate(AXE.read_text("utf-8"))
    axe_report = page.evaluate(
        "rules => axe.run({resultTypes: ['violations'], runOnly: rules})", _RULES
    )
    return [
        f"{violation['id']}: {violation['nodes'][0]['target']}"
        for violation in axe_report["violations"]
    ]


def lines_of(wrongs: Iterator[str] | list[str]) -> str:
    """Join the problems to one line, each shortened to 200 characters."""
    return "; ".join(problem[:200] for problem in wrongs)
