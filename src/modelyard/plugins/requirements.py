"""What a plugin's own files may ask to have installed: released packages from the index, by name, as wheels.

Whatever else an installer understands (local folders, addresses, version control, other files, options) would run or
read something at installation, on the server and before anybody is confined. It is refused here, before uv sees it, and
uv is given what was checked, never the plugin's own file.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.base.errors import PackageError

_MOST_LINES = 2000
_MOST_BYTES = 8 << 20
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:===?|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?"
    rf"\s*(?:\(\s*{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?\s*\)|{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?)?"
    r"\s*(?P<marker>;[A-Za-z0-9_.\s'\"<>=!~()*+,-]*)?"
)
_HASH = re.compile(r"\s--hash=sha(?:256|384|512):[0-9a-f]{64,128}(?=\s|$)")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_FILES = (".whl", ".zip", ".gz", ".bz2", ".xz", ".tar", ".tgz", ".zst", ".egg")
"""What an installer would look for on the disk, although it reads as a name."""
_ALLOWED = "a package's name, versions, and a marker, for instance 'httpx>=0.27; python_version < \"3.14\"'"


def check_line(line: str, where: str) -> str:
    """One requirement, as it may be given to uv. Raises PackageError for whatever is more than that."""
    bare = _HASH.sub("", " " + line).strip()
    if not bare.isascii() or _REQUIREMENT.fullmatch(bare) is None or bare.lower().endswith(_FILES):
        raise PackageError(
            f"{where} asks for {line.strip()[:200]!r}, which a plugin must not: {_reason(bare)}. Allowed is {_ALLOWED}"
        )
    return " ".join([bare, *(one.strip() for one in _HASH.findall(" " + line))])


def _reason(line: str) -> str:
    if line.startswith("-"):
        return "options of the installer are the operator's"
    if "://" in line or "@" in line:
        return "packages come from the index, not from an address or a version control system"
    if "/" in line or "\\" in line or line.startswith("."):
        return "packages come from the index, not from a folder or a file"
    return "it cannot be read as a requirement"


def listed(text: str, where: str) -> list[str]:
    """The requirements of a file in pip's format. Raises PackageError."""
    found: list[str] = []
    for line in _joined(text):
        bare = _COMMENT.sub("", line).strip()
        if bare:
            found.append(check_line(bare, where))
    if len(found) > _MOST_LINES:
        raise PackageError(f"{where} has {len(found):,} requirements; {_MOST_LINES:,} are allowed")
    return found


def _joined(text: str) -> Iterator[str]:
    """Lines, those that end in a backslash together with the next."""
    pending = ""
    for line in text.splitlines():
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def asked_for(folder: Path) -> list[str]:
    """What a plugin's folder asks for: by `pyproject.toml` where it is there, else by `requirements.txt`.

    Raises PackageError where it asks for what it must not.
    """
    if (folder / "pyproject.toml").is_file():
        project = read_project(folder)
        entries = project.get("dependencies")
        if not isinstance(entries, list) or not all(isinstance(one, str) for one in entries):
            raise PackageError("pyproject.toml must list its project.dependencies as texts")
        return [check_line(one, "pyproject.toml") for one in entries]
    return listed(_read(folder / "requirements.txt"), "requirements.txt")


def read_project(folder: Path) -> Mapping[str, Any]:
    """`[project]` of a plugin's pyproject.toml, once its other tables were looked through. Raises PackageError."""
    document = _table(folder / "pyproject.toml")
    uv = (document.get("tool") or {}).get("uv") if isinstance(document.get("tool"), dict) else None
    sources = uv.get("sources") if isinstance(uv, dict) else None
    for name in sources if isinstance(sources, dict) else ():
        raise PackageError(
            f"pyproject.toml has [tool.uv.sources] for {str(name)[:100]!r}, which a plugin must not: packages come "
            "from the index that the operator chose; remove the table"
        )
    project = document.get("project")
    if not isinstance(project, dict):
        raise PackageError("pyproject.toml has no [project] table, which lists what the plugin depends on")
    if "dependencies" in (project.get("dynamic") or ()):
        raise PackageError("pyproject.toml must list its dependencies itself: nothing is built to find them out")
    return project


def check_lock(folder: Path) -> None:
    """Whether all that a plugin's uv.lock names is the plugin itself or comes from an index. Raises PackageError."""
    document = _table(folder / "uv.lock")
    packages = document.get("package")
    for one in packages if isinstance(packages, list) else ():
        source = one.get("source") if isinstance(one, dict) else None
        if not isinstance(source, dict):
            raise PackageError("uv.lock lists a package without a source")
        if set(source) == {"registry"} and str(source["registry"]).startswith(("https://", "http://")):
            continue
        if set(source) <= {"virtual", "editable"} and set(source.values()) == {"."}:
            continue
        kind = ", ".join(str(key) for key in source)
        raise PackageError(
            f"uv.lock takes {str(one.get('name'))[:100]!r} from {kind[:100]!r}, which a plugin must not: packages come "
            "from an index"
        )


def _table(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise PackageError(f"{path.name} is not TOML: {error}") from error
    except RecursionError as error:
        raise PackageError(f"{path.name} is nested too deeply") from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES:
            raise PackageError(f"{path.name} has {len(data):,} bytes; {_MOST_BYTES:,} are allowed")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise PackageError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PackageError(f"{path.name} is not UTF-8") from error


def checked_export(text: str) -> Sequence[str]:
    """What uv made of a lock file, each line checked again."""
    return listed(text, "uv.lock")
