"""Structure figures of Python packages and TypeScript folders, computed from the
source: import graphs and sizes.

Imports inside functions and modules imported by name as strings count. Imports under
`TYPE_CHECKING` do not, because they do not happen at run time.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

Graph = Mapping[str, Set[str]]
"""Module name → the names of the modules that it imports."""

# `import type` is erased by the compiler and creates no dependency at run time.
_TS_IMPORT = re.compile(
    r"""^\s*(?:import|export)\s(?!type\s)[^"'`;]*?from\s+["']([^"']+)["']""",
    re.MULTILINE,
)
_TS_BARE = re.compile(r"""(?:^\s*import\s+|import\()["']([^"']+)["']""", re.MULTILINE)
_TS_ENDINGS = ("", ".ts", ".tsx", "/index.ts", "/index.tsx")


@dataclass(frozen=True)
class Size:
    """A size and the name of what was measured."""

    count: int
    name: str


@dataclass(frozen=True)
class Figures:
    """The structure figures of a package."""

    graph: Graph
    largest_class: Size
    """The class with the most methods."""
    widest_file: Size
    """The file that imports the most modules of its own package."""

    @property
    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or indirectly."""
        return [
            circle
            for circle in strongly_connected_components(self.graph)
            if len(circle) > 1
        ]


def figures_of(folder: Path, package: str, *, leaving_out: str = "-") -> Figures:
    """Return the figures of the package in a folder. Modules whose names start with
    `leaving_out` are not counted for `widest_file`."""
    modules = {
        _module_of(path, folder, package): path for path in sorted(folder.rglob("*.py"))
    }
    graph: dict[str, set[str]] = {}
    classes: list[Size] = []
    for name, path in modules.items():
        nodes = list(_without_type_checking(ast.parse(path.read_bytes())))
        graph[name] = _imported(name, nodes, modules)
        classes += [
            Size(_methods(node), f"{name}.{node.name}")
            for node in nodes
            if isinstance(node, ast.ClassDef)
        ]
    files = [
        Size(len(imported), name)
        for name, imported in graph.items()
        if not name.startswith(leaving_out)
    ]
    return Figures(graph, _largest(classes), _largest(files))


def typescript_graph(folder: Path) -> Graph:
    """Return the import graph of the TypeScript files below a folder, by relative path."""
    files = [
        path for ending in ("*.ts", "*.tsx") for path in sorted(folder.rglob(ending))
    ]
    names = {path.resolve(): path.relative_to(folder).as_posix() for path in files}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        text = path.read_text("utf-8")
        # Only relative addresses refer to files of this folder.
        addresses = [*_TS_IMPORT.findall(text), *_TS_BARE.findall(text)]
        resolved_names = (
            _resolved(path, address, names)
            for address in addresses
            if address.startswith(".")
        )
        graph[name] = {
            imported_name
            for imported_name in resolved_names
            if imported_name is not None and imported_name != name
        }
    return graph


def strongly_connected_components(graph: Graph) -> Iterator[list[str]]:
    """Yield the strongly connected components of a graph (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        """Visit a module depth-first and yield each component when its root is left."""
        # `low` is the smallest index that the module reaches through the stack.
        index[name] = low[name] = len(index)
        stack.append(name)
        for imported_name in sorted(graph.get(name, ())):
            if imported_name not in index:
                yield from visit(imported_name)
                low[name] = min(low[name], low[imported_name])
            elif imported_name in stack:
                low[name] = min(low[name], index[imported_name])
        # The module is the root of a component, which is on the stack above it.
        if low[name] == index[name]:
            stack_index = stack.index(name)
            yield stack[stack_index:]
            del stack[stack_index:]

    for name in graph:
        if name not in index:
            yield from visit(name)


def _resolved(path: Path, address: str, names: Mapping[Path, str]) -> str | None:
    """Return the file to which a relative import address resolves; None if it is not a
    TypeScript file."""
    for ending in _TS_ENDINGS:
        candidate = (path.parent / f"{address}{ending}").resolve()
        if candidate in names:
            return names[candidate]
    return None


def _module_of(path: Path, folder: Path, package: str) -> str:
    """Return the dotted module name of a file."""
    parts = path.relative_to(folder).with_suffix("").parts
    # A package's module name does not contain `__init__`.
    module_parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join((package, *module_parts))


def _largest(sizes: list[Size]) -> Size:
    return max(sizes, key=lambda size: (size.count, size.name), default=Size(0, "none"))


def _methods(node: ast.ClassDef) -> int:
    """Return the number of distinct methods defined in the class body. Overloads count
    once."""
    # A set, so that several overloads of a method count once.
    names = {
        inner.name
        for inner in node.body
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return len(names)


def _imported(
    name: str, nodes: Sequence[ast.AST], modules: Mapping[str, Path]
) -> set[str]:
    """Return the modules of the package that a module imports, at any place in its
    source."""
    is_package = modules[name].name == "__init__.py"
    imported: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            imported |= set(_from(node, name, modules, is_package=is_package))
    # Only files that use `import_module` can import by string.
    names = (node.id for node in nodes if isinstance(node, ast.Name))
    if "import_module" in names:
        imported |= _by_string(name, nodes, modules)
    # Python also imports the parent packages of a module. They are not counted, because
    # the importer does not choose them.
    return imported - {name}


def _from(
    node: ast.ImportFrom, name: str, modules: Mapping[str, Path], *, is_package: bool
) -> Iterator[str]:
    """Yield the modules of the package that a `from … import` statement imports."""
    base = node.module or ""
    # A relative import goes up one package per dot; a package's own `__init__` already
    # is one level up.
    if node.level:
        up = node.level - 1 if is_package else node.level
        parents = name.split(".")[: len(name.split(".")) - up]
        base = ".".join([*parents, *([base] if base else [])])
    for alias in node.names:
        # `from package import name` imports either a submodule or an attribute of the
        # package.
        inner = f"{base}.{alias.name}"
        if inner in modules:
            yield inner
        elif base in modules:
            yield base


def _by_string(
    name: str, nodes: Sequence[ast.AST], modules: Mapping[str, Path]
) -> set[str]:
    """Return modules whose names occur as strings in the file, with or without the
    package's name."""
    package = name.partition(".")[0]
    texts = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    candidates = texts | {f"{package}.{text}" for text in texts}
    return candidates & modules.keys()


def _without_type_checking(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all nodes except those inside `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        # The `else` branch is the one that runs.
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
