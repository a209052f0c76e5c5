"""The house: contracts kept, no arrow up, no circle, nothing too large; what it takes to add something; two anchors.

Circles and arrows are counted over all imports, those inside functions and by strings too. The same figures of two
well-made packages from the registry stand beside ours.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from tools.show.house_change import DATASET_FEATURE, ROUTE, Addition, add
from tools.show.house_figures import Figures, Graph, figures_of, strongly_connected, typescript_graph
from tools.show.proof import ROOT, Proof

COMPOSITION_ROOT = "modelyard.app"
"""The package that exists to name all the others: how much a file of it imports is not asked."""
MOST_METHODS, MOST_IMPORTS, MOST_SHARED, LEAST_CONTRACTS = 25, 30, 3, 12
ANCHORS = {"httpcore": "1.0.9", "procrastinate": "3.5.3"}
"""Packages on the registry, of kinds that people point to: a transport, and an application with a database."""


def documented_layers() -> list[str]:
    """The numbered list in the page's section on layers."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## Layers")[2].partition("\n## ")[0]
    return [
        " | ".join(re.findall(r"`(\w+)`", line.partition(":")[0]))
        for line in section.splitlines()
        if re.match(r"\d+\. ", line)
    ]


def contracts() -> list[dict[str, Any]]:
    """What `pyproject.toml` says of imports."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def contracted_layers() -> list[str]:
    """Top to bottom; `|` parts neighbours."""
    return next(contract["layers"] for contract in contracts() if contract["id"] == "layers")


def own_figures() -> Figures:
    """Of this package."""
    return figures_of(ROOT / "src" / "modelyard", "modelyard", leaving_out=f"{COMPOSITION_ROOT}.")


def import_circles() -> list[list[str]]:
    """Circles among all modules, however they import each other."""
    return own_figures().circles


def arrows_up(graph: Graph) -> list[str]:
    """Imports from a layer into one above it, or into a neighbour of its own row."""
    rows = [re.findall(r"\w+", row) for row in contracted_layers()]
    height = {name: place for place, row in enumerate(rows) for name in row}
    arrows: list[str] = []
    for importer, imported in graph.items():
        for other in imported:
            here, there = (name.split(".")[1] if "." in name else "" for name in (importer, other))
            is_known = here in height and there in height
            if is_known and here != there and height[there] <= height[here]:
                arrows.append(f"{importer} → {other}")
    return sorted(arrows)


def prove() -> Proof:
    """Everything at once; the additions take a few minutes."""
    proof = Proof()
    _contracts(proof)
    figures = own_figures()
    _structure(proof, figures)
    _typescript(proof)
    _anchors(proof, figures)
    _types(proof)
    for addition in (ROUTE, DATASET_FEATURE):
        _addition(proof, addition)
    return proof


def _contracts(proof: Proof) -> None:
    documented, contracted = documented_layers(), contracted_layers()
    proof.line("layers in docs/architecture.md", " → ".join(documented), documented == contracted)
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    kept = re.findall(r"^(.+?) (KEPT|BROKEN)(?: .*)?$", linted.stdout, re.MULTILINE)
    for name, state in kept:
        proof.line(f"contract: {name}", state.lower(), state == "KEPT")
    exempt = [contract["name"] for contract in contracts() if contract.get("ignore_imports")]
    proof.line("contracts with exemptions", ", ".join(exempt) or "none", not exempt)
    is_enough = linted.returncode == 0 and len(kept) >= LEAST_CONTRACTS
    proof.line("contracts kept", f"{len(kept)}, of at least {LEAST_CONTRACTS}", is_enough)
    proof.figures |= {"layers": len(documented), "contracts_kept": len(kept), "exempt": len(exempt)}


def _structure(proof: Proof, figures: Figures) -> None:
    up, circles = arrows_up(figures.graph), figures.circles
    proof.line("arrows up, lazy imports and strings counted", up[:3] or "none", not up)
    proof.line("circles between files, the same counted", circles[:1] or "none", not circles)
    methods, imports = figures.largest_class, figures.widest_file
    said = f"{methods.count} methods, of at most {MOST_METHODS}: {methods.name}"
    proof.line("the largest class", said, methods.count <= MOST_METHODS)
    said = f"{imports.count} files of ours, of at most {MOST_IMPORTS}: {imports.name}"
    proof.line("the file that imports most", said, imports.count <= MOST_IMPORTS)
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in (ROOT / "src").rglob("*.py"))
    proof.line("the package", f"{lines:,} lines in {len(figures.graph)} files")
    proof.figures |= {
        "arrows_up": len(up), "circles": len(circles), "most_methods": methods.count, "most_imports": imports.count,
        "lines": lines, "files": len(figures.graph),
    }  # fmt: skip


def _typescript(proof: Proof) -> None:
    graph = typescript_graph(ROOT / "console-ui" / "src")
    circles = [circle for circle in strongly_connected(graph) if len(circle) > 1]
    arrows = sum(len(imported) for imported in graph.values())
    proof.line("the console: files and imports", f"{len(graph)}, {arrows}", bool(graph and arrows))
    proof.line("the console: circles", circles[:1] or "none", not circles)
    proof.figures |= {"console_files": len(graph), "console_circles": len(circles)}


def _anchors(proof: Proof, ours: Figures) -> None:
    proof.figures["anchors"] = {"modelyard": _compared(proof, "modelyard", ours)}
    for package, version in ANCHORS.items():
        with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
            figures = _from_registry(package, version, Path(folder))
        proof.figures["anchors"][package] = _compared(proof, f"{package} {version}", figures)


def _compared(proof: Proof, name: str, figures: Figures) -> dict[str, int]:
    inside = max((len(circle) for circle in figures.circles), default=0)
    methods, imports = figures.largest_class.count, figures.widest_file.count
    circles = f"{len(figures.circles)} circles (of {inside} files)"
    said = f"{len(figures.graph)} files, {circles}, a class of {methods} methods, a file of {imports} imports"
    proof.line(f"beside others: {name}", said)
    return {"files": len(figures.graph), "circles": len(figures.circles), "methods": methods, "imports": imports}


def _from_registry(package: str, version: str, folder: Path) -> Figures:
    """Of a package's wheel. Raises CalledProcessError where the registry does not have it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", "-d", str(folder)]
    subprocess.run([*command, f"{package}=={version}"], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "whl")
    return figures_of(folder / "whl" / package, package)


def _types(proof: Proof) -> None:
    types = subprocess.run(
        [Path(sys.executable).with_name("basedpyright")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    proof.line("strict types", types.stdout.strip().splitlines()[-1], types.returncode == 0)


def _addition(proof: Proof, addition: Addition) -> None:
    outcome = add(addition)
    shared = ", ".join(outcome.shared)
    proof.line(f"to add {addition.about}: it works", outcome.problem or "yes", not outcome.problem)
    said = f"{len(outcome.shared)}, of at most {MOST_SHARED}: {shared}"
    proof.line(f"to add {addition.about}: shared files", said, 0 < len(outcome.shared) <= MOST_SHARED)
    by_hand = {Path(name).name for name in outcome.shared if not name.startswith("docs/reference/")}
    promised = promised_files(addition.about)
    proof.line(f"to add {addition.about}: as the page says", ", ".join(sorted(promised)), by_hand == promised)
    proof.figures[addition.about.replace(" ", "_")] = len(outcome.shared)


def promised_files(about: str) -> set[str]:
    """The names of shared files that docs/architecture.md names for an addition."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {about} |"))
    shared = row.split("|")[3]
    return {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", shared)}
