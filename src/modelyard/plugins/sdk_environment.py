"""What environments of plugins have in common: the SDK with everything that it needs, and
the bytecode of equal files.

Two plugins whose resolved files agree in the SDK and all that it needs can be forked from
one process that has loaded these alone. Nothing that only one of them brings is loaded
there.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from modelyard.plugins.requirements import requirement_name

SDK = "dify-plugin"
_CUSTOM_STARTS = ("sitecustomize.py", "usercustomize.py")
"""Modules that an interpreter imports as it starts."""
_MAX_METADATA_BYTES = 4 << 20


def site_packages(environment: Path) -> Path | None:
    """Return the folder of an environment's packages; None if it is incomplete."""
    return next(environment.glob("lib/python3*/site-packages"), None)


def sdk_lines(environment: Path, lines: Sequence[str]) -> list[str]:
    """Return those of an environment's requirement lines that the SDK needs, directly or
    not. Empty if one of its packages is not among the lines, as one that is built."""
    packages = site_packages(environment)
    if packages is None:
        return []
    metadata_by_name = {
        requirement_name(path.name.partition("-")[0]): path / "METADATA"
        for path in packages.glob("*.dist-info")
    }
    needed, waiting = set[str](), [SDK]
    while waiting:
        name = waiting.pop()
        # What is not installed here was excluded by a marker, or is an extra.
        if name not in needed and name in metadata_by_name:
            needed.add(name)
            waiting += _required_names(metadata_by_name[name])
    chosen = [line for line in lines if requirement_name(line) in needed]
    return sorted(chosen) if len(chosen) == len(needed) and SDK in needed else []


def _required_names(metadata: Path) -> Iterator[str]:
    """Yield the packages that a package needs without extras, from its metadata."""
    if metadata.stat().st_size > _MAX_METADATA_BYTES:
        return
    for line in metadata.read_text("utf-8", "replace").splitlines():
        # The description follows after an empty line.
        if not line:
            return
        field, _, value = line.partition(":")
        if field.lower() == "requires-dist" and "extra ==" not in value:
            yield requirement_name(value.strip())


def starts_alike(environment: Path, sdk: Path) -> bool:
    """Return whether a process that has loaded the SDK from its own environment can go
    on as a plugin of another: nothing there runs as an interpreter starts, or as the
    SDK is loaded."""
    own, shared = site_packages(environment), site_packages(sdk)
    if own is None or shared is None:
        return False
    if any((own / name).is_file() for name in _CUSTOM_STARTS):
        return False
    return all(_is_harmless(path, shared) for path in own.glob("*.pth")) and not any(
        _extends(path, _top_level_names(shared))
        for path in own.glob("*.dist-info/entry_points.txt")
        # The SDK's own packages are the same in both.
        if not (shared / path.parent.name).is_dir()
    )


def _is_harmless(path_file: Path, shared: Path) -> bool:
    """Return whether a `.pth` file runs nothing, or is the same in the SDK's
    environment, as uv's own."""
    text = path_file.read_bytes()
    twin = shared / path_file.name
    if twin.is_file() and twin.read_bytes() == text:
        return True
    return not any(
        line.startswith((b"import ", b"import\t")) for line in text.split(b"\n")
    )


def _top_level_names(packages: Path) -> frozenset[str]:
    return frozenset(path.name.removesuffix(".py") for path in packages.iterdir())


def _extends(entry_points: Path, names: frozenset[str]) -> bool:
    """Return whether a package registers itself with one of the SDK's packages, such as
    in the group `pydantic`, whose plugins are loaded with it."""
    groups = (
        line.strip()[1:-1].strip()
        for line in entry_points.read_text("utf-8", "replace").splitlines()
        if line.strip().startswith("[")
    )
    return any(group.partition(".")[0] in names for group in groups)


# ----------------------------------------------------------------------------- bytecode


def remove_bytecode(environment: Path) -> None:
    """Delete the bytecode that packages bring: it could stand for another module's
    source, also that of another package."""
    packages = site_packages(environment)
    for path in packages.rglob("__pycache__/*.pyc") if packages else ():
        path.unlink()


def link_bytecode(environment: Path, others: Sequence[Path]) -> None:
    """Link the bytecode of files that are one with a file of another environment, which
    has been compiled by us. What is not found is left to be compiled."""
    packages = site_packages(environment)
    if packages is None:
        return
    other_packages = [path for other in others if (path := site_packages(other))]
    for record in packages.glob("*.dist-info/RECORD"):
        source = next(
            (
                other
                for other in other_packages
                # Bytecode belongs to one minor version of Python.
                if other.parent.name == packages.parent.name
                and (other / record.parent.name).is_dir()
            ),
            None,
        )
        if source is not None:
            _link_package(record, packages, source)


def _link_package(record: Path, packages: Path, source: Path) -> None:
    """Link the bytecode of one package's modules. `record` is its list of files."""
    tag = f"cpython-{packages.parent.name.removeprefix('python').replace('.', '')}"
    with record.open(encoding="utf-8", newline="") as file:
        names = [row[0] for row in csv.reader(file) if row]
    for name in names:
        # A list of files is foreign input: it must not lead out of the folder.
        if not name.endswith(".py") or name.startswith("/") or ".." in name.split("/"):
            continue
        folder, _, module = name.rpartition("/")
        cached = f"{folder}/__pycache__/{module[:-3]}.{tag}.pyc".lstrip("/")
        with suppress(OSError):
            # Hard links of one file: its text and its time are the same.
            if (packages / name).samefile(source / name):
                (packages / cached).parent.mkdir(exist_ok=True)
                os.link(source / cached, packages / cached)
