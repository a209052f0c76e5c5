"""Accessibility of the console: axe-core on every page in both languages and themes,
every journey by keyboard, and no text in the wrong language."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from tools.show.browser import Person, browser, build, person, violations
from tools.show.console_journeys import JOURNEYS, run_journey
from tools.show.console_world import World, world
from tools.show.proof import ROOT, Proof

_PAIR = re.compile(r'\["((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\]')
_NAMES = {
    "English",
    "string",
    "number",
    "object",
    "boolean",
    "file",
    "none",
    "all",
    "any",
    "and",
    "or",
    "ok",
    "data",
    "fine",
    "Ask",
    "End",
    "Start",
    "console",
    "text",
    "tools",
    "requests",
    "files",
}
"""Names that are not translated: of fields, packages and models, and of values that the
test entered."""
_TEXTS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.textContent.trim()) found.push(walk.currentNode.textContent.trim());
  for (const name of ["aria-label", "placeholder", "title"])
    for (const one of document.querySelectorAll(`[${name}]`)) found.push(one.getAttribute(name));
  return found;
}"""


_SHARED_TEXTS = "languages.ts"
_CONSOLE_TEXTS = ("messages.ts", "messages-apps.ts")


def pairs(*texts_files: str) -> dict[str, str]:
    """Return the texts of a page that differ between the languages, English → Chinese.

    `texts_files` are the files with the page's own texts; by default the console's.
    """
    folder = ROOT / "console-ui" / "src"
    names = (_SHARED_TEXTS, *(texts_files or _CONSOLE_TEXTS))
    source = "".join((folder / name).read_text("utf-8") for name in names)
    text_pairs = {
        json.loads(f'"{english}"'): json.loads(f'"{chinese}"')
        for english, chinese in _PAIR.findall(source)
    }
    # Texts that are equal in both languages cannot be in the wrong one.
    return {
        english: chinese
        for english, chinese in text_pairs.items()
        if english != chinese
    }


def open_page(user: Person, path: str) -> None:
    """Open a page and wait until it is loaded and rendered."""
    user.goto(path)
    user.page.locator("h1").first.wait_for()
    user.page.wait_for_load_state("load")
    # Requests of the page that start after loading change its content.
    user.page.wait_for_timeout(350)


def inspect_pages(
    chromium_browser: Any,
    console_world: World,
    pages: Sequence[str],
    language: str,
    theme: str,
) -> tuple[list[str], list[str]]:
    """Return (violations that axe-core finds, texts in the wrong language) for the
    pages.

    Foreign requests need no watch of their own here: the pages' content policy refuses
    them, and the browser reports that. Without it the browser caches the scripts.
    """
    texts = pairs()
    foreign = set(texts) if language == "zh" else set(texts.values())
    # A text that also exists in the right language is not foreign.
    foreign -= set(texts.values() if language == "zh" else texts)
    foreign -= _NAMES
    problems: list[str] = []
    missing: list[str] = []
    with person(
        chromium_browser,
        console_world.served.origin,
        language=language,
        color_scheme=theme,
        is_watched=False,
    ) as user:
        for path in pages:
            open_page(user, path)
            problems += [f"{path} {violation}" for violation in violations(user.page)]
            page_texts: list[str] = user.page.evaluate(_TEXTS)
            missing += [
                f"{path}: {text!r}" for text in sorted(foreign.intersection(page_texts))
            ]
        # Errors that the browser reported on any of the pages.
        problems += [f"browser: {browser_error}" for browser_error in user.problems]
    return problems, missing


def check_translations() -> tuple[int, bool]:
    """Return (number of translated texts, whether the compiler finds each text in both
    languages)."""
    # The type of the text table requires both languages, so a missing text is a compile
    # error.
    completed = subprocess.run(
        ["npx", "--no-install", "tsc", "--noEmit"],
        cwd=ROOT / "console-ui",
        capture_output=True,
        check=False,
    )
    return len(pairs()), completed.returncode == 0


def prove() -> Proof:
    """Check all pages in each language and theme, then all journeys by keyboard, and
    report them."""
    build()
    proof = Proof()
    count, compiles = check_translations()
    proof.line("texts in both languages, checked by the compiler", count, compiles)
    total = 0
    with browser() as chromium_browser:
        with world() as console_world:
            for language in ("en", "zh"):
                for theme in ("light", "dark"):
                    pages = console_world.paths()
                    problems, missing = inspect_pages(
                        chromium_browser, console_world, pages, language, theme
                    )
                    total += len(problems)
                    label = f"axe-core: {len(pages)} pages, {language}, {theme}"
                    proof.line(
                        label, "; ".join(problems[:5]) or "0 violations", not problems
                    )
                    proof.line(
                        f"texts of the other language: {language}, {theme}",
                        "; ".join(missing[:5]) or 0,
                        not missing,
                    )
        # Journeys start with a new user, so they do not use the filled server above.
        for name in JOURNEYS:
            problem, seconds = run_journey(chromium_browser, name, keyboard=True)
            proof.line(
                f"with the keyboard only: {name}",
                problem or f"{seconds:.1f} s",
                not problem,
            )
    proof.figures = {
        "texts": count,
        "violations": total,
        "journeys by keyboard": len(JOURNEYS),
    }
    return proof
