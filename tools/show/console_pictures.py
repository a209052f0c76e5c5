"""A picture of every page, in both themes and languages and on a telephone, and sheets of them to look at."""

from pathlib import Path
from typing import Any

from tools.show.browser import browser, build, person
from tools.show.console_access import settled
from tools.show.console_world import PAGES, world
from tools.show.proof import ROOT, Proof

FOLDER = ROOT / "build" / "console-pictures"
_WIDTH, _HEIGHT, _ACROSS = 480, 338, 6


def sheet(pictures: list[Path], target: Path) -> None:
    from PIL import Image

    down = -(-len(pictures) // _ACROSS)
    made: Any = Image.new("RGB", (_WIDTH * _ACROSS, _HEIGHT * down), "#888")
    for at, path in enumerate(pictures):
        picture = Image.open(path)
        picture.thumbnail((_WIDTH - 6, _HEIGHT - 6))
        made.paste(picture, (at % _ACROSS * _WIDTH + 3, at // _ACROSS * _HEIGHT + 3))
    made.save(target)


def prove() -> Proof:
    build()
    proof = Proof()
    count = 0
    with browser() as made, world() as there:
        for language in ("en", "zh"):
            for theme, width in (("light", 1280), ("dark", 1280), ("light", 360), ("light", 3840)):
                name = f"{language}-{theme}-{width}"
                folder = FOLDER / name
                folder.mkdir(parents=True, exist_ok=True)
                taken: list[Path] = []
                wide: list[str] = []
                with person(made, there.served.origin, language=language, color_scheme=theme) as one:
                    one.page.set_viewport_size({"width": width, "height": {360: 740, 1280: 900, 3840: 2160}[width]})
                    for at, path in enumerate(there.paths()):
                        settled(one, path)
                        taken.append(folder / f"{at:02d}.png")
                        one.page.screenshot(path=taken[-1])
                        if one.page.evaluate("document.documentElement.scrollWidth > innerWidth + 1"):
                            wide.append(path)
                sheet(taken, FOLDER / f"{name}.png")
                count += len(taken)
                proof.line(
                    f"{len(taken)} pages, {language}, {theme}, {width} px",
                    "wider than the window: " + ", ".join(wide) if wide else "fit the window",
                    not wide,
                )
    proof.line("sheets", FOLDER.relative_to(ROOT), None)
    proof.figures = {"pages": len(PAGES), "pictures": count}
    return proof
