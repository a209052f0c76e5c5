"""Readability: names, density, docstrings, comments, function sizes and complexity, with
three well-known packages measured in the same way; and no retired word left in use.

Limits come from docs/design/0018-words.md.
"""

import ast
import difflib
import random
import subprocess
from collections.abc import Iterator
from functools import cache

from tools import retired_words
from tools.readability import Figures, mean_complexity, measure, worst
from tools.show.packages import downloaded_package
from tools.show.proof import ROOT, Proof

MAX_VAGUE_PER_KLOC, MAX_NODES_PER_LINE = 8.0, 6.0
MIN_DOCUMENTED_PERCENT, MIN_COMMENTS_PER_100 = 90.0, 5.0
MAX_LENGTHS = {50: 8, 90: 28, 100: 80}
"""The limit on the length of functions in lines by percentile; 100 is the longest."""
MAX_COMPLEXITY = 12
FOLDERS = ("src", "tools", "bench", "tests")
ANCHORS = {"httpcore": "1.0.9", "click": "8.3.1", "procrastinate": "3.5.3"}
_EARLIER = "7f25b3d"
"""The last commit before names and texts were changed."""
_SAMPLES = 20


def prove() -> Proof:
    """Measure the project and the packages for comparison, and look for retired words."""
    proof = Proof()
    source = measure([ROOT / "src"])
    everything = measure([ROOT / folder for folder in FOLDERS])
    check_source(proof, source)
    check_everything(proof, everything)
    check_words(proof)
    proof.figures["packages"] = {"modelyard": _report(proof, "modelyard", source)}
    for name, version in ANCHORS.items():
        with downloaded_package(name, version) as folder:
            figures = measure([folder])
        proof.figures["packages"][name] = _report(proof, f"{name} {version}", figures)
    for text in sample_functions(_SAMPLES):
        print(text)
    return proof


def check_source(proof: Proof, figures: Figures) -> None:
    """Check the limits that hold for the package."""
    _at_most(proof, "syntax nodes a line", figures.nodes_per_line, MAX_NODES_PER_LINE)
    percent = figures.documented_percent
    _at_least(proof, "public docstrings, %", percent, MIN_DOCUMENTED_PERCENT)
    comments = figures.comments_per_100_lines
    _at_least(proof, "comments in 100 lines", comments, MIN_COMMENTS_PER_100)
    for percentile, limit in MAX_LENGTHS.items():
        length = figures.length_percentile(percentile)
        _at_most(proof, f"lines of a function, p{percentile}", length, limit)


def check_everything(proof: Proof, figures: Figures) -> None:
    """Check the limits that hold for the package, its tools, benchmarks and tests."""
    vague = figures.vague_per_kloc
    _at_most(proof, "vague names in 1,000 lines", vague, MAX_VAGUE_PER_KLOC)
    too_complex = worst(figures, MAX_COMPLEXITY)
    name, complexity = figures.most_complex
    proof.line(
        "cognitive complexity, largest",
        f"{complexity}, of at most {MAX_COMPLEXITY}: {name.removeprefix(f'{ROOT}/')}",
        not too_complex,
    )
    proof.figures["vague_names_per_kloc"] = round(vague, 1)
    proof.figures["functions_too_complex"] = len(too_complex)


def check_words(proof: Proof) -> None:
    """Check that no retired word is in use."""
    remaining = retired_words.remaining()
    label = f"of {retired_words.entry_count()} retired words in use"
    proof.line(label, "; ".join(remaining[:5]) or "none", not remaining)
    proof.figures["retired_words_in_use"] = len(remaining)


def _at_most(proof: Proof, label: str, value: float, limit: float) -> None:
    proof.line(label, f"{value:.4g}, of at most {limit:g}", round(value, 2) <= limit)


def _at_least(proof: Proof, label: str, value: float, limit: float) -> None:
    proof.line(label, f"{value:.4g}, of at least {limit:g}", round(value, 2) >= limit)


def _report(proof: Proof, name: str, figures: Figures) -> dict[str, float]:
    """Add a line with a package's figures and return them."""
    lengths = "/".join(str(figures.length_percentile(at)) for at in MAX_LENGTHS)
    complexity = figures.most_complex[1]
    proof.line(
        f"for comparison: {name}",
        f"{figures.vague_per_kloc:.1f} vague names in 1,000 lines,"
        f" {figures.nodes_per_line:.1f} nodes a line,"
        f" {figures.documented_percent:.0f} % documented,"
        f" {figures.comments_per_100_lines:.1f} comments in 100 lines,"
        f" functions {lengths} lines,"
        f" complexity {mean_complexity(figures):.1f} on average, {complexity} at most",
    )
    return {
        "vague_names_per_kloc": round(figures.vague_per_kloc, 1),
        "nodes_per_line": round(figures.nodes_per_line, 2),
        "documented_percent": round(figures.documented_percent),
        "comments_per_100_lines": round(figures.comments_per_100_lines, 1),
        "p90_lines": figures.length_percentile(90),
        "largest_complexity": complexity,
    }


# ------------------------------------------------------------ functions before and after


def sample_functions(count: int, seed: int | None = None) -> Iterator[str]:
    """Yield randomly chosen functions of the earlier state, each with the function of
    today that has the most similar syntax, as text for a person to compare.

    Yields a sentence instead if this clone does not have the earlier commit.
    """
    earlier = _earlier_functions()
    if not earlier:
        yield f"The earlier commit {_EARLIER} is not in this clone: nothing to compare."
        return
    chosen = random.Random(seed).sample(sorted(earlier), count)
    for name in chosen:
        yield f"\n======== before: {name}\n{earlier[name]}"
        yield f"-------- now: {_most_similar(earlier[name])}"


def _functions_of(path: str, source: str) -> Iterator[tuple[str, str]]:
    """Yield (path and name, source text) of each function with at least 5 lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_source_segment(source, node, padded=True) or ""
            if text.count("\n") >= 4:
                yield f"{path}: {node.name}", text


def _earlier_functions() -> dict[str, str]:
    """Return the package's functions at the earlier commit by path and name; empty if
    the clone does not have it."""
    listing = _git("ls-tree", "-r", "--name-only", _EARLIER, "src/modelyard")
    paths = [path for path in listing.splitlines() if path.endswith(".py")]
    # A sample of files is enough to choose functions from, and much faster.
    paths = random.SystemRandom().sample(paths, min(60, len(paths)))
    functions: dict[str, str] = {}
    for path in paths:
        functions |= dict(_functions_of(path, _git("show", f"{_EARLIER}:{path}")))
    return functions


def _git(*arguments: str) -> str:
    """Return the output of a git command; empty if it fails."""
    command = ["git", *arguments]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return completed.stdout if completed.returncode == 0 else ""


@cache
def _functions_now() -> list[tuple[str, str, list[str]]]:
    """Return (path and name, text, shape) of all functions of today."""
    functions: list[tuple[str, str, list[str]]] = []
    for path in sorted((ROOT / "src" / "modelyard").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for label, text in _functions_of(name, path.read_text("utf-8")):
            functions.append((label, text, _shape(text)))
    return functions


def _shape(text: str) -> list[str]:
    """Return the kinds of syntax nodes of a function in order. Names do not matter, so
    renaming does not change it."""
    lines = text.splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    tree = ast.parse("\n".join(line[margin:] for line in lines))
    return [type(node).__name__ for node in ast.walk(tree)]


def _most_similar(earlier_text: str) -> str:
    """Return the name and text of the function of today with the most similar shape."""
    shape = _shape(earlier_text)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(shape)
    best, best_ratio = "none is similar", 0.5
    for label, text, other in _functions_now():
        matcher.set_seq1(other)
        # The cheap bounds exclude almost all functions.
        if (
            matcher.real_quick_ratio() <= best_ratio
            or matcher.quick_ratio() <= best_ratio
        ):
            continue
        ratio = matcher.ratio()
        if ratio > best_ratio:
            best, best_ratio = f"{label} ({ratio:.0%} alike)\n{text}", ratio
    return best
