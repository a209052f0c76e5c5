"""Architecture checks: import contracts, no upward imports, no import cycles, size
limits, and the cost of typical additions.

All imports count, including lazy imports inside functions and imports by string. The
same figures of two well-designed packages from PyPI are shown for comparison.
"""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from tools.show.house_change import DATASET_FEATURE, ROUTE, Addition, add
from tools.show.house_figures import (
    Figures,
    Graph,
    figures_of,
    strongly_connected_components,
    typescript_graph,
)
from tools.show.packages import downloaded_package
from tools.show.proof import ROOT, Proof

COMPOSITION_ROOT = "modelyard.app"
"""The composition root imports all other packages by design, so the limit on imports
does not apply to its files."""
MAX_METHODS, MAX_IMPORTS, MAX_SHARED_FILES, MIN_CONTRACTS = 25, 30, 3, 12
ANCHORS = {"httpcore": "1.0.9", "procrastinate": "3.5.3"}
"""Packages on PyPI for comparison: a transport library, and an application with a
database."""


def documented_layers() -> list[str]:
    """Return the layers in the numbered list of docs/architecture.md, top to bottom."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## Layers")[2].partition("\n## ")[0]
    # The package names are in backticks before the colon of each line.
    return [
        " | ".join(re.findall(r"`(\w+)`", line.partition(":")[0]))
        for line in section.splitlines()
        if re.match(r"\d+\. ", line)
    ]


def contracts() -> list[dict[str, Any]]:
    """Return the import contracts in `pyproject.toml`."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]


def contracted_layers() -> list[str]:
    """Return the layers of the import contract, top to bottom; `|` separates packages
    in the same layer."""
    return next(
        contract["layers"] for contract in contracts() if contract["id"] == "layers"
    )


@cache
def own_figures() -> Figures:
    """Return the structure figures of this package."""
    return figures_of(
        ROOT / "src" / "modelyard", "modelyard", leaving_out=f"{COMPOSITION_ROOT}."
    )


def import_cycles() -> list[list[str]]:
    """Return the import cycles among all modules, lazy imports included."""
    return own_figures().circles


def upward_imports(graph: Graph) -> list[str]:
    """Return imports from a layer into a higher one, or into another package of the
    same layer."""
    rows = [re.findall(r"\w+", row) for row in contracted_layers()]
    # The index grows downwards: a higher layer has a smaller index.
    height = {name: layer_index for layer_index, row in enumerate(rows) for name in row}
    return sorted(
        f"{importer} → {imported}"
        for importer, all_imported in graph.items()
        for imported in all_imported
        if _is_upward(height, _package_of(importer), _package_of(imported))
    )


def _package_of(module: str) -> str:
    """Return the top-level package of a module; empty for the root package itself."""
    return module.split(".")[1] if "." in module else ""


def _is_upward(height: dict[str, int], importer: str, imported: str) -> bool:
    """Return whether an import between two packages, both of which have a layer, does
    not go down."""
    if importer == imported or not {importer, imported} <= height.keys():
        return False
    return height[imported] <= height[importer]


def prove() -> Proof:
    """Run all architecture checks. The additions take a few minutes."""
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
    """Compare documented and enforced layers, and check that all contracts hold without
    exemptions."""
    documented, contracted = documented_layers(), contracted_layers()
    proof.line(
        "layers in docs/architecture.md",
        " → ".join(documented),
        documented == contracted,
    )
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # The linter prints one line per contract with its state.
    contract_states = re.findall(
        r"^(.+?) (KEPT|BROKEN)(?: .*)?$", linted.stdout, re.MULTILINE
    )
    for name, state in contract_states:
        proof.line(f"contract: {name}", state.lower(), state == "KEPT")
    exempt = [
        contract["name"] for contract in contracts() if contract.get("ignore_imports")
    ]
    proof.line("contracts with exemptions", ", ".join(exempt) or "none", not exempt)
    # A deleted contract must not go unnoticed, so the count is checked too.
    is_enough = linted.returncode == 0 and len(contract_states) >= MIN_CONTRACTS
    proof.line(
        "contracts that hold",
        f"{len(contract_states)}, of at least {MIN_CONTRACTS}",
        is_enough,
    )
    proof.figures |= {
        "layers": len(documented),
        "contracts_kept": len(contract_states),
        "exempt": len(exempt),
    }


def _structure(proof: Proof, figures: Figures) -> None:
    """Check upward imports, cycles, class sizes and import counts."""
    up, circles = upward_imports(figures.graph), figures.circles
    proof.line(
        "upward imports, with lazy imports and strings", up[:3] or "none", not up
    )
    proof.line(
        "import cycles between files, counted the same way",
        circles[:1] or "none",
        not circles,
    )
    methods, imports = figures.largest_class, figures.widest_file
    summary = f"{methods.count} methods, of at most {MAX_METHODS}: {methods.name}"
    proof.line("the largest class", summary, methods.count <= MAX_METHODS)
    summary = f"{imports.count} files of ours, of at most {MAX_IMPORTS}: {imports.name}"
    proof.line("the file that imports most", summary, imports.count <= MAX_IMPORTS)
    lines = sum(
        len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "src").rglob("*.py")
    )
    proof.line("the package", f"{lines:,} lines in {len(figures.graph)} files")
    proof.figures |= {
        "upward_imports": len(up),
        "circles": len(circles),
        "most_methods": methods.count,
        "most_imports": imports.count,
        "lines": lines,
        "files": len(figures.graph),
    }


def _typescript(proof: Proof) -> None:
    """Check the console's TypeScript sources for import cycles."""
    # The console is checked in the same way, from its TypeScript imports.
    graph = typescript_graph(ROOT / "console-ui" / "src")
    circles = [
        circle for circle in strongly_connected_components(graph) if len(circle) > 1
    ]
    arrows = sum(len(imported) for imported in graph.values())
    proof.line(
        "the console: files and imports",
        f"{len(graph)}, {arrows}",
        bool(graph and arrows),
    )
    proof.line("the console: import cycles", circles[:1] or "none", not circles)
    proof.figures |= {"console_files": len(graph), "console_circles": len(circles)}


def _anchors(proof: Proof, project_figures: Figures) -> None:
    """Compare the figures with those of well-designed packages."""
    proof.figures["anchors"] = {
        "modelyard": _report_figures(proof, "modelyard", project_figures)
    }
    for package, version in ANCHORS.items():
        with downloaded_package(package, version) as folder:
            figures = figures_of(folder, package)
        proof.figures["anchors"][package] = _report_figures(
            proof, f"{package} {version}", figures
        )


def _report_figures(proof: Proof, name: str, figures: Figures) -> dict[str, int]:
    largest_cycle = max((len(circle) for circle in figures.circles), default=0)
    methods, imports = figures.largest_class.count, figures.widest_file.count
    circles = f"{len(figures.circles)} circles (of {largest_cycle} files)"
    summary = f"{len(figures.graph)} files, {circles}, a class of {methods} methods, a file of {imports} imports"
    proof.line(f"compared with others: {name}", summary)
    return {
        "files": len(figures.graph),
        "circles": len(figures.circles),
        "methods": methods,
        "imports": imports,
    }


def _types(proof: Proof) -> None:
    """Run the strict type checker."""
    types = subprocess.run(
        [Path(sys.executable).with_name("basedpyright")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    proof.line(
        "strict types", types.stdout.strip().splitlines()[-1], types.returncode == 0
    )


def _addition(proof: Proof, addition: Addition) -> None:
    """Check that an addition works and how many shared files it had to edit."""
    outcome = add(addition)
    shared = ", ".join(outcome.shared)
    proof.line(
        f"to add {addition.about}: it works",
        outcome.problem or "yes",
        not outcome.problem,
    )
    summary = f"{len(outcome.shared)}, of at most {MAX_SHARED_FILES}: {shared}"
    proof.line(
        f"to add {addition.about}: shared files",
        summary,
        0 < len(outcome.shared) <= MAX_SHARED_FILES,
    )
    # Generated reference pages also change, but nobody edits them by hand.
    by_hand = {
        Path(name).name
        for name in outcome.shared
        if not name.startswith("docs/reference/")
    }
    promised = promised_files(addition.about)
    proof.line(
        f"to add {addition.about}: as documented",
        ", ".join(sorted(promised)),
        by_hand == promised,
    )
    proof.figures[addition.about.replace(" ", "_")] = len(outcome.shared)


def promised_files(addition_name: str) -> set[str]:
    """Return the names of the shared files that docs/architecture.md lists for an
    addition."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    # The table has one row per addition; the third column lists the shared files.
    row = next(
        line for line in text.splitlines() if line.startswith(f"| {addition_name} |")
    )
    shared = row.split("|")[3]
    return {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", shared)}
