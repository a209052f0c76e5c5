"""Validation of plugins' requirements: only released packages from the index, by name,
as wheels.

Everything else that installers support (local folders, URLs, version control, other
files, options) would run or read something on the server before the plugin is confined.
It is refused here, and uv only gets the checked lines, never the plugin's own file.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.base.errors import PackageError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object

_MAX_LINES = 2000
_MAX_BYTES = 8 << 20
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:===?|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
# Simplified PEP 508: name, extras, version clauses, marker. There is no URL form.
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?"
    rf"\s*(?:\(\s*{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?\s*\)|{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?)?"
    r"\s*(?P<marker>;[A-Za-z0-9_.\s'\"<>=!~()*+,-]*)?"
)
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SEPARATORS = re.compile(r"[-_.]+")
_HASH = re.compile(r"\s--hash=sha(?:256|384|512):[0-9a-f]{64,128}(?=\s|$)")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_FILES = (".whl", ".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz", ".zst", ".egg")
"""Extensions that make an installer look for a local file although the text reads like
a name."""
_ALLOWED = (
    "a package name with versions and a marker, for example 'httpx>=0.27;"
    ' python_version < "3.14"\''
)


Substitutes = Mapping[str, str]
"""Name of a package in lower case with hyphens → the requirement to install from the
index, where a plugin takes the package from a repository or a URL."""
NO_SUBSTITUTES: Substitutes = {}


def normal_name(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return "-".join(name.lower().replace("_", "-").replace(".", "-").split("-"))


def check_line(line: str, where: str, substitutes: Substitutes = NO_SUBSTITUTES) -> str:
    """Return one requirement as it may be passed to uv: itself, or what the operator
    has set in its place. Raises PackageError if it is anything else."""
    # `name @ address` is the only form of a requirement from elsewhere with a name.
    name, at, _ = line.partition("@")
    substitute = substitutes.get(normal_name(name.partition("[")[0].strip()))
    if at and substitute is not None:
        return check_line(substitute, "plugins.substitutes")
    # The leading space lets the pattern match a hash at the start of the line.
    requirement = _HASH.sub("", " " + line).strip()
    if (
        not requirement.isascii()
        or _REQUIREMENT.fullmatch(requirement) is None
        or requirement.lower().endswith(_FILES)
    ):
        raise PackageError(
            f"{where}: requirement {line.strip()[:200]!r} is not allowed:"
            f" {_reason(requirement)}. Expected {_ALLOWED}"
        )
    # Hashes are kept, so that uv verifies the downloads.
    return " ".join(
        [
            requirement,
            *(hash_option.strip() for hash_option in _HASH.findall(" " + line)),
        ]
    )


def requirement_name(line: str) -> str:
    """Return the normalised name of the package that a requirement line begins with, as
    the index has it; the line itself if there is none."""
    match = _PACKAGE_NAME.match(line.strip())
    return _SEPARATORS.sub("-", match[0]).lower() if match else line


def _reason(line: str) -> str:
    """Return why a requirement is refused, for the error message.

    `line` has no hashes any more.
    """
    # The error explains which rule was broken.
    if line.startswith("-"):
        return "installer options can only be set by the operator"
    if "://" in line or "@" in line:
        return (
            "packages must come from the index, not from a URL or a version"
            " control system; if the index has the package, the operator can name it"
            " in plugins.substitutes"
        )
    if "/" in line or "\\" in line or line.startswith("."):
        return "packages must come from the index, not from a folder or a file"
    return "not a valid requirement"


def parse_requirements(
    text: str, where: str, substitutes: Substitutes = NO_SUBSTITUTES
) -> list[str]:
    """Return the requirements in the text of a requirements file.

    Comments are removed and continued lines joined; hashes are kept. `where` names the
    file in error messages; `substitutes` replace packages from elsewhere. Raises
    PackageError for any line that is not a plain requirement, such as an option or a
    URL, and beyond 2,000 requirements.
    """
    requirements: list[str] = []
    for line in _join_lines(text):
        requirement = _COMMENT.sub("", line).strip()
        if requirement:
            requirements.append(check_line(requirement, where, substitutes))
    if len(requirements) > _MAX_LINES:
        raise PackageError(
            f"{where} has {len(requirements):,} requirements; the limit is"
            f" {_MAX_LINES:,}"
        )
    return requirements


def _join_lines(text: str) -> Iterator[str]:
    """Yield the lines; a line that ends in a backslash is joined with the next."""
    pending = ""
    for line in text.splitlines():
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def read_requirements(
    folder: Path, substitutes: Substitutes = NO_SUBSTITUTES
) -> list[str]:
    """Return the requirements of a plugin's folder, from `pyproject.toml` or else
    `requirements.txt`. Raises PackageError."""
    if (folder / "pyproject.toml").is_file():
        project = read_project(folder, substitutes)
        entries = project.get("dependencies")
        if not is_array(entries) or not all(
            isinstance(dependency, str) for dependency in entries
        ):
            raise PackageError(
                "pyproject.toml: project.dependencies must be a list of strings"
            )
        return [
            check_line(dependency, "pyproject.toml", substitutes)
            for dependency in entries
        ]
    return parse_requirements(
        _read_text(folder / "requirements.txt"), "requirements.txt", substitutes
    )


def read_project(
    folder: Path, substitutes: Substitutes = NO_SUBSTITUTES
) -> Mapping[str, Any]:
    """Return `[project]` of a plugin's pyproject.toml after checking its other tables.
    Raises PackageError."""
    document = _read_toml(folder / "pyproject.toml")
    # `tool.uv.sources` can redirect a package to any location.
    uv = (
        (document.get("tool") or EMPTY_OBJECT).get("uv")
        if is_object(document.get("tool"))
        else None
    )
    sources = uv.get("sources") if is_object(uv) else None
    for name in sources if is_object(sources) else ():
        # uv reads the source only to look the package up in the lock file.
        if normal_name(str(name)) in substitutes:
            continue
        raise PackageError(
            f"pyproject.toml has [tool.uv.sources] for {str(name)[:100]!r}, which"
            " is not allowed: packages must come from the operator's index;"
            " remove the table"
        )
    project = document.get("project")
    if not is_object(project):
        raise PackageError(
            "pyproject.toml has no [project] table with the plugin's dependencies"
        )
    # Dynamic dependencies would require running the project's build backend.
    if "dependencies" in (project.get("dynamic") or ()):
        raise PackageError(
            "pyproject.toml must list its dependencies statically; dynamic"
            " dependencies are not supported"
        )
    return project


def check_lock(folder: Path, substitutes: Substitutes = NO_SUBSTITUTES) -> None:
    """Raise PackageError if uv.lock contains a package that is neither the plugin
    itself, nor from an index, nor to be replaced."""
    document = _read_toml(folder / "uv.lock")
    packages = document.get("package")
    for package in packages if is_array(packages) else ():
        source = package.get("source") if is_object(package) else None
        if not is_object(source):
            raise PackageError("uv.lock lists a package without a source")
        is_replaced = normal_name(str(package.get("name"))) in substitutes
        if is_replaced or _is_index(source) or _is_own_project(source):
            continue
        source_type = ", ".join(str(key) for key in source)
        raise PackageError(
            f"uv.lock takes {str(package.get('name'))[:100]!r} from"
            f" {source_type[:100]!r}, which is not allowed: packages must come"
            " from an index; if one has the package, the operator can name it in"
            " plugins.substitutes"
        )


def _is_index(source: Mapping[str, Any]) -> bool:
    """Return whether a package comes from a registry; the operator's index serves it."""
    return set(source) == {"registry"} and str(source["registry"]).startswith(
        ("https://", "http://")
    )


def _is_own_project(source: Mapping[str, Any]) -> bool:
    """Return whether it is the plugin's own project, which appears as virtual or
    editable at "."."""
    return set(source) <= {"virtual", "editable"} and set(source.values()) == {"."}


def _read_toml(path: Path) -> Mapping[str, Any]:
    """Parse a TOML file of at most 8 MiB.

    Raises PackageError if it cannot be read, is invalid, or is nested too deeply.
    """
    try:
        return tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise PackageError(f"{path.name}: invalid TOML: {error}") from error
    except RecursionError as error:
        raise PackageError(f"{path.name} is nested too deeply") from error


def _read_text(path: Path) -> str:
    """Read a UTF-8 file of at most 8 MiB, without its byte order mark.

    Raises PackageError if it cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if len(data) > _MAX_BYTES:
            raise PackageError(
                f"{path.name} has {len(data):,} bytes; the limit is {_MAX_BYTES:,}"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise PackageError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PackageError(f"{path.name} is not UTF-8") from error


def check_export(text: str, substitutes: Substitutes = NO_SUBSTITUTES) -> Sequence[str]:
    """Return the lines that uv exported from a lock file, each checked again."""
    return parse_requirements(text, "uv.lock", substitutes)
