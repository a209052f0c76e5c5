"""axe-core on every page, in both languages and themes; every journey by keyboard; no text of the other language."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from tools.show.browser import Person, browser, build, person, violations
from tools.show.console_journeys import JOURNEYS, travel
from tools.show.console_world import World, world
from tools.show.proof import ROOT, Proof

_PAIR = re.compile(r'\["((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\]')
_NAMES = {
    "English", "string", "number", "object", "boolean", "file", "none", "all", "any", "and", "or", "ok", "data", "fine",
    "Ask", "End", "Start", "console", "text", "tools", "requests",
}  # fmt: skip
"""Names that stand as they are: of fields, packages, models, and of what was filled in."""
_TEXTS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.textContent.trim()) found.push(walk.currentNode.textContent.trim());
  for (const name of ["aria-label", "placeholder", "title"])
    for (const one of document.querySelectorAll(`[${name}]`)) found.push(one.getAttribute(name));
  return found;
}"""


_SHARED_WORDS = "languages.ts"


def pairs(words: str = "words.ts") -> dict[str, str]:
    """English → Chinese, of every text of the console that is not the same in both.

    `words`: the file of the page's own texts; an app's page has others.
    """
    folder = ROOT / "console-ui" / "src"
    source = "".join((folder / name).read_text("utf-8") for name in (_SHARED_WORDS, words))
    found = {json.loads(f'"{one}"'): json.loads(f'"{other}"') for one, other in _PAIR.findall(source)}
    return {one: other for one, other in found.items() if one != other}


def settled(one: Person, path: str) -> None:
    """The page, with what it asks for."""
    one.goto(path)
    one.page.locator("h1").first.wait_for()
    one.page.wait_for_load_state("load")
    one.page.wait_for_timeout(350)


def looked_at(made: Any, there: World, pages: Sequence[str], language: str, theme: str) -> tuple[list[str], list[str]]:
    """(what axe-core finds, texts that are in the other language), of pages."""
    texts = pairs()
    foreign = set(texts) if language == "zh" else set(texts.values())
    foreign -= set(texts.values() if language == "zh" else texts)
    foreign -= _NAMES
    wrong: list[str] = []
    missing: list[str] = []
    with person(made, there.served.origin, language=language, color_scheme=theme) as one:
        for path in pages:
            settled(one, path)
            wrong += [f"{path} {said}" for said in violations(one.page)]
            said: list[str] = one.page.evaluate(_TEXTS)
            missing += [f"{path}: {text!r}" for text in sorted(foreign.intersection(said))]
        wrong += [f"browser: {said}" for said in one.wrongs]
    return wrong, missing


def every_text_is_there() -> tuple[int, bool]:
    """How many texts there are; and whether the compiler finds each page's in both languages."""
    done = subprocess.run(
        ["npx", "--no-install", "tsc", "--noEmit"], cwd=ROOT / "console-ui", capture_output=True, check=False
    )
    return len(pairs()), done.returncode == 0


def prove() -> Proof:
    build()
    proof = Proof()
    count, compiles = every_text_is_there()
    proof.line("texts in both languages, held by the compiler", count, compiles)
    total = 0
    with browser() as made:
        with world() as there:
            for language in ("en", "zh"):
                for theme in ("light", "dark"):
                    pages = there.paths()
                    wrong, missing = looked_at(made, there, pages, language, theme)
                    total += len(wrong)
                    what = f"axe-core: {len(pages)} pages, {language}, {theme}"
                    proof.line(what, "; ".join(wrong[:5]) or "0 violations", not wrong)
                    proof.line(
                        f"texts of the other language: {language}, {theme}", "; ".join(missing[:5]) or 0, not missing
                    )
        for name in JOURNEYS:
            wrong_one, seconds = travel(made, name, keyboard=True)
            proof.line(f"by keyboard alone: {name}", wrong_one or f"{seconds:.1f} s", not wrong_one)
    proof.figures = {"texts": count, "violations": total, "journeys by keyboard": len(JOURNEYS)}
    return proof
