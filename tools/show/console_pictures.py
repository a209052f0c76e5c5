"""Take a screenshot of every console page in both languages, both themes and several
window widths, and combine them into contact sheets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.show.browser import browser, build, person
from tools.show.console_access import open_page
from tools.show.console_world import PAGES, world
from tools.show.proof import ROOT, Proof

FOLDER = ROOT / "build" / "console-pictures"
_WIDTH, _HEIGHT, _COLUMNS = 480, 338, 6


def save_contact_sheet(pictures: list[Path], target: Path) -> None:
    """Save the pictures as thumbnails in one contact sheet, row by row."""
    from PIL import Image

    # Ceiling division: the number of rows.
    down = -(-len(pictures) // _COLUMNS)
    contact_sheet: Any = Image.new("RGB", (_WIDTH * _COLUMNS, _HEIGHT * down), "#888")
    for index, path in enumerate(pictures):
        picture = Image.open(path)
        picture.thumbnail((_WIDTH - 6, _HEIGHT - 6))
        # The offset of 3 px centres a thumbnail with a 6 px gap between neighbours.
        contact_sheet.paste(
            picture, (index % _COLUMNS * _WIDTH + 3, index // _COLUMNS * _HEIGHT + 3)
        )
    contact_sheet.save(target)


def prove() -> Proof:
    """Take all screenshots and report pages that are wider than the window."""
    build()
    proof = Proof()
    count = 0
    with browser() as browser_instance, world() as console_world:
        for language in ("en", "zh"):
            for theme, width in _WINDOWS:
                name = f"{language}-{theme}-{width}"
                with person(
                    browser_instance,
                    console_world.served.origin,
                    language=language,
                    color_scheme=theme,
                ) as user:
                    user.page.set_viewport_size(
                        {"width": width, "height": _HEIGHTS[width]}
                    )
                    pictures, wide = _take_pictures(user, console_world.paths(), name)
                save_contact_sheet(pictures, FOLDER / f"{name}.png")
                count += len(pictures)
                label = f"{len(pictures)} pages, {language}, {theme}, {width} px"
                summary = "wider than the window: " + ", ".join(wide)
                proof.line(label, summary if wide else "fit the window", not wide)
    proof.line("sheets", FOLDER.relative_to(ROOT), None)
    proof.figures = {"pages": len(PAGES), "pictures": count}
    return proof


# 360 px is a phone, 3840 px a 4K screen.
_WINDOWS = (("light", 1280), ("dark", 1280), ("light", 360), ("light", 3840))
_HEIGHTS = {360: 740, 1280: 900, 3840: 2160}


def _take_pictures(
    user: Any, paths: Iterable[str], name: str
) -> tuple[list[Path], list[str]]:
    """Take a screenshot of each page; return the files, and the pages that are wider
    than the window."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    wide: list[str] = []
    for page_number, path in enumerate(paths):
        open_page(user, path)
        pictures.append(folder / f"{page_number:02d}.png")
        user.page.screenshot(path=pictures[-1])
        # A page that scrolls horizontally does not fit. One pixel is tolerated for
        # rounding.
        if user.page.evaluate("document.documentElement.scrollWidth > innerWidth + 1"):
            wide.append(path)
    return pictures, wide
