"""Packages that their authors publish as sources only: which they are, and building them
without trusting them.

Everything else is installed from wheels, which run nothing. uv downloads and unpacks the
sources and verifies their digests; the packages' own build code runs confined, without
network, and sees nothing but the sources and the build tools.
"""

import asyncio
import shlex
import shutil
import stat
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import PluginError
from modelyard.base.json_types import is_array, is_object
from modelyard.plugins.requirements import requirement_name

_BUILD_SCRIPT = Path(__file__).with_name("inside") / "build.py"
# What most packages need to be built. A package that needs something else says so.
_TOOLS = ("setuptools<81", "wheel", "flit-core", "hatchling", "poetry-core")
_LIMITS = {
    "cpu": 300,
    "data": 4 << 30,
    "fsize": 1 << 30,
    "nofile": 1024,
    "nproc": 1024,
    "core": 0,
}

Uv = Callable[[Sequence[str], Mapping[str, str]], Awaitable[str]]
"""(arguments, further variables) → uv's output. Raises PluginError."""


def source_packages(folder: Path) -> frozenset[str]:
    """Return the packages in a plugin's `uv.lock` that have no wheel; empty without such
    a file, or if it is not valid, which uv says better."""
    try:
        document = tomllib.loads((folder / "uv.lock").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return frozenset()
    packages = document.get("package")
    return frozenset(
        requirement_name(str(package.get("name")))
        for package in (packages if is_array(packages) else ())
        if _is_source_only(package)
    )


def _is_source_only(package: Any) -> bool:
    """Return whether an entry of a lock file comes from an index, without a wheel."""
    if not is_object(package) or package.get("wheels"):
        return False
    source = package.get("source")
    return is_object(source) and "registry" in source and "sdist" in package


class SourceBuilder:
    """Builds the source packages of one environment."""

    def __init__(self, uv: Uv, base: Path, index_options: Sequence[str]) -> None:
        """`base` is the interpreter that the environment was created from."""
        self._uv = uv
        self._base = base
        self._index_options = index_options

    async def install(
        self, lines: Sequence[str], environment: Path, work: Path
    ) -> None:
        """Build the packages in `lines`, pinned and one a line, and add them to an
        environment. `work` is an empty folder for everything that is needed meanwhile.

        Raises PluginError if a package cannot be built.
        """
        venv = await self._build_environment(work)
        requirements = work / "sources.txt"
        requirements.write_text("\n".join(lines) + "\n", "utf-8")
        target = work / "built"
        arguments = ["pip", "install", "--no-deps", "--no-build-isolation"]
        arguments += ["--no-binary", ":all:", "--target", str(target)]
        arguments += ["--python", str(venv / "bin" / "python"), *self._index_options]
        # A cache of its own: a build can write there, and must not change what other
        # plugins get.
        variables = {"UV_CACHE_DIR": str(work / "cache"), "TMPDIR": str(work / "tmp")}
        try:
            await self._uv([*arguments, "--requirement", str(requirements)], variables)
        except PluginError as error:
            names = ", ".join(line.split()[0] for line in lines)
            message = f"Building {names} from sources failed: {error.reason}"
            raise PluginError(message, plugin=error.plugin) from error
        await asyncio.to_thread(_add_files, target, environment)

    async def _build_environment(self, work: Path) -> Path:
        """Create an environment with the usual build tools, whose interpreter confines
        itself, and return its folder."""
        venv = work / "venv"
        for name in ("cache", "tmp"):
            (work / name).mkdir(parents=True)
        await self._uv(["venv", "--quiet", "--python", str(self._base), str(venv)], {})
        python = venv / "bin" / "python"
        arguments = [
            "pip",
            "install",
            "--only-binary",
            ":all:",
            "--python",
            str(python),
        ]
        # A folder of wheels may have none of them; packages may bring their own.
        with suppress(PluginError):
            await self._uv([*arguments, *self._index_options, *_TOOLS], {})
        self._confine(work, python)
        return venv

    def _confine(self, work: Path, python: Path) -> None:
        """Replace an interpreter by a script that confines it."""
        real = python.with_name("python.real")
        python.rename(real)
        order = work / "order.json"
        document = {
            "python": str(real),
            "read": [str(work / "venv"), str(_BUILD_SCRIPT.parent)],
            "write": [str(work / "cache"), str(work / "tmp")],
            "tmp": str(work / "tmp"),
            "limits": _LIMITS,
        }
        order.write_bytes(msgspec.json.encode(document))
        command = shlex.join([str(self._base), "-I", "-S", str(_BUILD_SCRIPT)])
        text = f'#!/bin/sh\nexec {command} {shlex.quote(str(order))} "$0" "$@"\n'
        python.write_text(text, "utf-8")
        python.chmod(python.stat().st_mode | stat.S_IXUSR | stat.S_IRUSR)


def _add_files(source: Path, environment: Path) -> None:
    """Copy what was built into an environment, without replacing anything of it.

    Links are left out: a build could have made one that leads to any file.
    """
    (target,) = environment.glob("lib/python*/site-packages")
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        # Programs of packages are not started, and would overwrite others.
        if path.is_symlink() or relative.parts[0] == "bin" or not path.is_file():
            continue
        goal = target / relative
        if not goal.exists():
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, goal)


def split_lines(resolved: str, names: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the requirement lines that are (installed from wheels, built)."""
    lines = [line for line in resolved.splitlines() if line]
    built = [line for line in lines if requirement_name(line) in names]
    return [line for line in lines if line not in built], built
