"""The structure of a Python package and of TypeScript, from the source: who imports whom, and how large things are.

Imports inside functions count, and so do modules that are imported by their names as strings; imports for type checkers
alone do not, since nothing is imported by them when the program runs.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

Graph = Mapping[str, Set[str]]
"""A module's name → the names of those that it imports."""

_TS_IMPORT = re.compile(r"""^\s*(?:import|export)\s(?!type\s)[^"'`;]*?from\s+["']([^"']+)["']""", re.MULTILINE)
_TS_BARE = re.compile(r"""(?:^\s*import\s+|import\()["']([^"']+)["']""", re.MULTILINE)
_TS_ENDINGS = ("", ".ts", ".tsx", "/index.ts", "/index.tsx")


@dataclass(frozen=True)
class Size:
    """How large something is, and which one it is."""

    count: int
    name: str


@dataclass(frozen=True)
class Figures:
    """What is asked of a package."""

    graph: Graph
    largest_class: Size
    """By its methods."""
    widest_file: Size
    """By the modules of its own package that it imports."""

    @property
    def circles(self) -> list[list[str]]:
        """Modules that import each other, directly or by others."""
        return [circle for circle in strongly_connected(self.graph) if len(circle) > 1]


def figures_of(folder: Path, package: str, *, leaving_out: str = "-") -> Figures:
    """Of the package in a folder. `leaving_out`: how the names of modules begin whose width is not asked."""
    modules = {_module_of(path, folder, package): path for path in sorted(folder.rglob("*.py"))}
    trees = {name: ast.parse(path.read_bytes()) for name, path in modules.items()}
    graph = {name: _imported(name, tree, modules) for name, tree in trees.items()}
    classes = [Size(_methods(node), f"{name}.{node.name}") for name, tree in trees.items() for node in _classes(tree)]
    files = [Size(len(imported), name) for name, imported in graph.items() if not name.startswith(leaving_out)]
    return Figures(graph, _largest(classes), _largest(files))


def typescript_graph(folder: Path) -> Graph:
    """The same of TypeScript: files below a folder, by their paths."""
    files = [path for ending in ("*.ts", "*.tsx") for path in sorted(folder.rglob(ending))]
    names = {path.resolve(): path.relative_to(folder).as_posix() for path in files}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        text = path.read_text("utf-8")
        wanted = [*_TS_IMPORT.findall(text), *_TS_BARE.findall(text)]
        found = (_resolved(path, address, names) for address in wanted if address.startswith("."))
        graph[name] = {other for other in found if other is not None and other != name}
    return graph


def strongly_connected(graph: Graph) -> Iterator[list[str]]:
    """Groups of modules each of which reaches the others: Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            yield stack[at:]
            del stack[at:]

    for name in graph:
        if name not in index:
            yield from visit(name)


def _resolved(path: Path, address: str, names: Mapping[Path, str]) -> str | None:
    """The file that a relative address means; None where it is no TypeScript."""
    for ending in _TS_ENDINGS:
        candidate = (path.parent / f"{address}{ending}").resolve()
        if candidate in names:
            return names[candidate]
    return None


def _module_of(path: Path, folder: Path, package: str) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    inside = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join((package, *inside))


def _largest(sizes: list[Size]) -> Size:
    return max(sizes, key=lambda size: (size.count, size.name), default=Size(0, "none"))


def _classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _methods(node: ast.ClassDef) -> int:
    """Definitions in the class's own body; overloads of one method are one."""
    names = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)}
    return len(names)


def _imported(name: str, tree: ast.Module, modules: Mapping[str, Path]) -> set[str]:
    """The modules of the package that one of them imports, wherever in it."""
    is_package = modules[name].name == "__init__.py"
    imported: set[str] = set()
    for node in _without_type_checking(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            imported |= set(_from(node, name, modules, is_package=is_package))
    if "import_module" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
        imported |= _by_string(name, tree, modules)
    # A module is imported together with the packages that it lies in: that is no choice of whoever imports it.
    return imported - {name}


def _from(node: ast.ImportFrom, name: str, modules: Mapping[str, Path], *, is_package: bool) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        up = node.level - 1 if is_package else node.level
        parents = name.split(".")[: len(name.split(".")) - up]
        base = ".".join([*parents, *([base] if base else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        if inner in modules:
            yield inner
        elif base in modules:
            yield base


def _by_string(name: str, tree: ast.Module, modules: Mapping[str, Path]) -> set[str]:
    """Modules that stand as strings, whole or without the package's name, in a file that imports by name."""
    package = name.partition(".")[0]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    candidates = texts | {f"{package}.{text}" for text in texts}
    return candidates & modules.keys()


def _without_type_checking(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
