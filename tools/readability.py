"""Measure how readable Python sources are: names, density, docstrings, comments, functions.

The figures follow one definition for every package, so that they can be compared. Only the
source is read; nothing is imported.
"""

import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from complexipy import file_complexity

VAGUE_NAMES = frozenset(
    [
        "one",
        "ones",
        "other",
        "others",
        "found",
        "told",
        "asked",
        "said",
        "given",
        "made",
        "kept",
        "taken",
        "wanted",
        "known",
        "seen",
        "done",
        "every",
        "each",
        "most",
        "least",
        "place",
        "places",
        "sign",
        "signs",
        "thing",
        "things",
        "what",
        "whose",
        "whom",
        "this",
        "that",
        "these",
        "those",
        "how",
        "much",
        "many",
        "more",
        "rest",
        "now",
        "then",
        "here",
        "there",
        "whole",
        "piece",
        "pieces",
        "way",
        "ways",
        "word",
        "words",
    ]
)
"""Identifiers that do not say what they hold. Leading underscores do not count."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


@dataclass
class Figures:
    """Sums over the files of a package."""

    code_lines: int = 0
    """Lines that are neither blank nor a comment. Docstrings count."""
    syntax_nodes: int = 0
    comments: int = 0
    public_definitions: int = 0
    documented_definitions: int = 0
    vague_names: Counter[str] = field(default_factory=Counter[str])
    function_lengths: list[int] = field(default_factory=list[int])
    """Lines of each function, from `def` to its end, without its docstring."""
    complexities: dict[str, int] = field(default_factory=dict[str, int])
    """Cognitive complexity of each function, by file and name."""

    @property
    def vague_per_kloc(self) -> float:
        """Return the number of vague names in a thousand lines of code."""
        return 1000 * self.vague_names.total() / max(1, self.code_lines)

    @property
    def nodes_per_line(self) -> float:
        """Return the mean number of syntax nodes on a line of code."""
        return self.syntax_nodes / max(1, self.code_lines)

    @property
    def comments_per_100_lines(self) -> float:
        """Return the number of comments for a hundred lines of code."""
        return 100 * self.comments / max(1, self.code_lines)

    @property
    def documented_percent(self) -> float:
        """Return the percentage of public functions and classes with a docstring."""
        return 100 * self.documented_definitions / max(1, self.public_definitions)

    @property
    def most_complex(self) -> tuple[str, int]:
        """Return the name and the cognitive complexity of the worst function."""
        return max(self.complexities.items(), key=lambda pair: pair[1], default=("", 0))

    def length_percentile(self, percent: int) -> int:
        """Return the function length that `percent` of the functions do not exceed."""
        lengths = sorted(self.function_lengths)
        if not lengths:
            return 0
        return lengths[min(len(lengths) - 1, len(lengths) * percent // 100)]


def measure(paths: Iterable[Path], *, with_complexity: bool = True) -> Figures:
    """Measure files, and the Python files below folders.

    Cognitive complexity is the slowest of the figures; it can be left out.
    """
    figures = Figures()
    for path in python_files(paths):
        _add_file(figures, path)
        if with_complexity:
            _add_complexity(figures, path)
    return figures


def total(parts: Iterable[Figures]) -> Figures:
    """Return the figures of several packages together."""
    figures = Figures()
    for part in parts:
        figures.code_lines += part.code_lines
        figures.syntax_nodes += part.syntax_nodes
        figures.comments += part.comments
        figures.public_definitions += part.public_definitions
        figures.documented_definitions += part.documented_definitions
        figures.vague_names += part.vague_names
        figures.function_lengths += part.function_lengths
        figures.complexities |= part.complexities
    return figures


def python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files themselves, and the Python files below folders, in order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.py"))
        else:
            yield path


def code_line_count(source: str) -> int:
    """Return the number of lines that are neither blank nor a comment."""
    lines = (line.strip() for line in source.splitlines())
    return sum(1 for line in lines if line and not line.startswith("#"))


def identifiers(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield each use of a name: variables, parameters, functions and classes."""
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, _DEFINITIONS):
            yield node.name


def vague_names(nodes: Iterable[ast.AST]) -> Counter[str]:
    """Count the uses of vague names, without their underscores."""
    plain_names = (name.strip("_").lower() for name in identifiers(nodes))
    return Counter(name for name in plain_names if name in VAGUE_NAMES)


def function_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function without its docstring."""
    end = node.end_lineno or node.lineno
    length = end - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def mean_complexity(figures: Figures) -> float:
    """Return the mean cognitive complexity of the functions."""
    return statistics.fmean(figures.complexities.values() or [0])


def _add_file(figures: Figures, path: Path) -> None:
    source = path.read_text("utf-8")
    # Walking is the slowest step, so the tree is walked once.
    nodes = list(ast.walk(ast.parse(source)))
    figures.code_lines += code_line_count(source)
    figures.syntax_nodes += len(nodes)
    figures.comments += _comment_count(source)
    figures.vague_names += vague_names(nodes)
    for node in nodes:
        if isinstance(node, _FUNCTIONS):
            figures.function_lengths.append(function_length(node))
        if isinstance(node, _DEFINITIONS) and not node.name.startswith("_"):
            figures.public_definitions += 1
            figures.documented_definitions += ast.get_docstring(node) is not None


def _comment_count(source: str) -> int:
    """Return the number of comments in a file, without those in its strings."""
    if "#" not in source:
        return 0
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(1 for token in tokens if token.type == tokenize.COMMENT)


def _add_complexity(figures: Figures, path: Path) -> None:
    for function in file_complexity(str(path)).functions:
        figures.complexities[f"{path}: {function.name}"] = function.complexity


def worst(figures: Figures, limit: int) -> Sequence[tuple[str, int]]:
    """Return the functions with a cognitive complexity above `limit`, worst first."""
    above = [pair for pair in figures.complexities.items() if pair[1] > limit]
    return sorted(above, key=lambda pair: -pair[1])
