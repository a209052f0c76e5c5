"""`docs/architecture.md` names the layers that the contracts hold; the contracts are kept; no import circle."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from tools.show.proof import ROOT, Proof


def documented_layers() -> list[str]:
    """The numbered list in the page's section on layers."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## Layers")[2].partition("\n## ")[0]
    return [
        " | ".join(re.findall(r"`(\w+)`", line.partition(":")[0]))
        for line in section.splitlines()
        if re.match(r"\d+\. ", line)
    ]


def contracted_layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return next(one["layers"] for one in contracts if one["id"] == "layers")


def prove() -> Proof:
    proof = Proof()
    documented, contracted = documented_layers(), contracted_layers()
    proof.line("layers in docs/architecture.md", " → ".join(documented), documented == contracted)
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    kept = re.findall(r"^(.+) (KEPT|BROKEN)$", linted.stdout, re.MULTILINE)
    for name, state in kept:
        proof.line(f"contract: {name}", state.lower(), state == "KEPT")
    proof.line("lint-imports", f"{len(kept)} contracts", linted.returncode == 0 and len(kept) >= 6)
    circles = import_circles()
    proof.line("import circles between files", len(circles), not circles)
    types = subprocess.run(
        [Path(sys.executable).with_name("basedpyright")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    proof.line("strict types", types.stdout.strip().splitlines()[-1], types.returncode == 0)
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in (ROOT / "src").rglob("*.py"))
    proof.line("the package", f"{lines:,} lines")
    proof.figures |= {"layers": len(documented), "contracts_kept": len(kept), "circles": len(circles), "lines": lines}
    return proof


def import_circles() -> list[list[str]]:
    """Circles among all modules, imports inside functions counted, those for type checkers alone left out."""
    import grimp

    graph = grimp.build_graph("modelyard", exclude_type_checking_imports=True)
    edges = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    return [circle for circle in _strongly_connected(edges) if len(circle) > 1]


def _strongly_connected(edges: dict[str, set[str]]) -> Iterable[list[str]]:
    """Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterable[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges.get(name, ()):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            yield stack[at:]
            del stack[at:]

    for name in edges:
        if name not in index:
            yield from visit(name)
