"""Where a plugin's dependencies are installed: virtual environments that plugins with the same resolved set share.

An environment's name is the digest of what is in it, so two plugins that need the same have the same, and one that is
there is never changed. `uv` resolves and installs; Python is found on this machine and never downloaded.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError, PackageError, PluginError
from modelyard.plugins.package import save
from modelyard.plugins.requirements import asked_for, check_lock, checked_export, listed

READY = "modelyard.json"
"""In an environment that is whole."""
_SECONDS = 600.0
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
                   "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
                   "no_proxy")  # fmt: skip
_PREFERRED = ((3, 12), (3, 13), (3, 14), (3, 11))
"""Most plugins are made for the first; the last is for those that the SDK's newer versions leave behind."""
_BOUND = re.compile(r"(>=|==|~=|<=|<|>|!=)\s*(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter on this machine."""

    path: Path
    version: tuple[int, int, int]

    @property
    def minor(self) -> tuple[int, int]:
        return self.version[:2]


@dataclass(frozen=True, slots=True)
class Environment:
    """One that is whole."""

    folder: Path
    name: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def base(self) -> Path:
        """The Python that it was made from: what is run before anything that was installed may be."""
        return Path(str(msgspec.json.decode((self.folder / READY).read_bytes())["python"]))

    def touch(self) -> None:
        """Say that it is used: what nobody uses is collected."""
        os.utime(self.folder / READY)


@dataclass(slots=True)
class Environments:
    """Makes and keeps them below a folder."""

    folder: Path
    environ: Mapping[str, str]
    offline: bool = False
    wheelhouse: Path | None = None
    """A folder of wheels; where it is given, nothing comes from anywhere else."""
    index_url: str = ""
    _pythons: list[Python] | None = field(default=None, init=False)

    async def prepare(self, source: Path, *, name: str) -> Environment:
        """The environment for the plugin in a folder, made where it is not there.

        Raises PluginError that names the package that cannot be had and why; then nothing is left behind.
        """
        source = Path.cwd() / source  # uv is started elsewhere
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = _requires_python(source)
        pythons = await self.pythons()
        python = choose(pythons, wanted)
        if python is None:
            raise PluginError(_none_fits(pythons, wanted), plugin=name)
        resolved = await self._resolved(source, python, name)
        digest = hashlib.sha256(f"{python.path}\n{python.version}\n{resolved}".encode()).hexdigest()[:24]
        target = self.folder / digest
        lock = await _locked(self.folder, digest)
        try:
            if not (target / READY).is_file():
                await self._build(target, python, resolved, name)
        finally:
            os.close(lock)
        environment = Environment(target.resolve(), digest)
        environment.touch()
        return environment

    def find(self, digest: str) -> Environment | None:
        folder = (self.folder / digest).resolve()
        return Environment(folder, digest) if (folder / READY).is_file() else None

    def collect(self, used: Sequence[str], *, older_than: float) -> list[str]:
        """Remove environments that nobody uses and nobody has used for so many seconds; their names."""
        gone: list[str] = []
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name in used or folder.name.startswith("."):
                continue
            ready = folder / READY
            last = ready.stat().st_mtime if ready.is_file() else folder.stat().st_mtime
            if SystemClock().time() - last > older_than:
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder.name)
        return gone

    async def pythons(self) -> Sequence[Python]:
        """Interpreters of 3.11 and newer: on the path, from pyenv, from uv."""
        if self._pythons is None:
            probes = [_probe(path) for path in _candidates(self.environ)]
            found = [one for one in await asyncio.gather(*probes) if one is not None and one.version >= (3, 11)]
            unique = {one.path: one for one in reversed(found)}
            self._pythons = sorted(unique.values(), key=lambda one: _rank(one.minor))
        return self._pythons

    # resolving

    async def _resolved(self, source: Path, python: Python, name: str) -> str:
        """What is to be installed, one `package==version` a line, as it was worked out when first asked."""
        inputs = [source / one for one in ("uv.lock", "pyproject.toml", "requirements.txt")]
        present = [path for path in inputs if path.is_file()]
        if not present:
            raise PluginError("it has neither pyproject.toml nor requirements.txt", plugin=name)
        try:
            asked = await asyncio.to_thread(_checked, source)
        except PackageError as error:
            raise PluginError(f"its dependencies cannot be installed: {error}", plugin=name) from error
        digest = hashlib.sha256(f"wheels\n{python.version}".encode())
        for path in present:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        known = self.folder / ".resolved" / f"{digest.hexdigest()[:32]}.txt"
        if known.is_file():
            return known.read_text("utf-8")
        is_locked = {"uv.lock", "pyproject.toml"} <= {path.name for path in present}
        with tempfile.TemporaryDirectory(prefix="modelyard-resolve-") as name_of_folder:
            text = await self._uv(
                _resolving(source, asked, Path(name_of_folder), is_locked=is_locked, python=python, more=self._from()),
                name,
                cwd=Path(name_of_folder),
            )
        lines = sorted(checked_export(text) if is_locked else listed(text, "what uv resolved"))
        if not any(line.lower().startswith(("dify-plugin", "dify_plugin")) for line in lines):
            raise PluginError("it does not depend on dify_plugin, which every plugin speaks through", plugin=name)
        resolved = "\n".join(lines) + "\n"
        save(known, resolved.encode())
        return resolved

    def _from(self) -> list[str]:
        """Where packages may come from."""
        if self.wheelhouse is not None:
            return ["--no-index", "--find-links", str(self.wheelhouse)]
        return ["--default-index", self.index_url] if self.index_url else []

    # building

    async def _build(self, target: Path, python: Python, resolved: str, name: str) -> None:
        partial = target.with_name(f".partial-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            await self._uv(["venv", "--quiet", "--relocatable", "--python", str(python.path), str(partial)], name)
            chosen = partial / "resolved.txt"
            chosen.write_text(resolved, "utf-8")
            await self._uv(
                ["pip", "install", "--no-deps", "--only-binary", ":all:",
                 "--python", str(partial / "bin" / "python"), *self._from(), "--requirement", str(chosen)],
                name,
            )  # fmt: skip
            about = {"python": str(python.path), "version": list(python.version), "made_at": time.time()}
            (partial / READY).write_bytes(msgspec.json.encode(about))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    async def _uv(self, arguments: Sequence[str], name: str, *, cwd: Path | None = None) -> str:
        """What uv prints. Raises PluginError with its reason."""
        environ = {key: self.environ[key] for key in _KEPT_VARIABLES if key in self.environ}
        environ |= {key: value for key, value in self.environ.items() if key.startswith("UV_")}
        environ |= {"UV_CACHE_DIR": str(self.folder / ".cache"), "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        options = ["--offline"] if self.offline or self.wheelhouse is not None else []
        process = await asyncio.create_subprocess_exec(
            uv_path(), *arguments, *options,
            cwd=cwd or self.folder, env=environ, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
            umask=0o022,  # plugins run as users of their own, who have to read it
        )  # fmt: skip
        try:
            async with asyncio.timeout(_SECONDS):
                out, err = await process.communicate()
        except TimeoutError:
            raise PluginError(f"its dependencies were not installed within {_SECONDS:.0f} s", plugin=name) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise PluginError(f"its dependencies cannot be installed: {_reason(err.decode('utf-8', 'replace'))}",
                              plugin=name)  # fmt: skip
        return out.decode()


def _checked(source: Path) -> list[str]:
    """What a plugin asks for. Raises PackageError where it asks for more than wheels from an index."""
    if (source / "pyproject.toml").is_file() and (source / "uv.lock").is_file():
        check_lock(source)
    return asked_for(source)


def _resolving(
    source: Path, asked: Sequence[str], work: Path, *, is_locked: bool, python: Python, more: Sequence[str]
) -> list[str]:
    """What uv is asked to work out, in a folder that holds what was checked and nothing else of the plugin's."""
    if is_locked:
        for file in ("pyproject.toml", "uv.lock"):
            shutil.copyfile(source / file, work / file)
        return ["export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate", "--no-build",
                "--no-config", "--python", str(python.path)]  # fmt: skip
    wanted = work / "requirements.in"
    wanted.write_text("\n".join(asked) + "\n", "utf-8")
    return ["pip", "compile", "--no-header", "--no-annotate", "--only-binary", ":all:", "--python", str(python.path),
            *more, str(wanted)]  # fmt: skip


def uv_path() -> str:
    """The `uv` beside our own Python, else the one on the path. Raises ConfigError where there is none."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ConfigError("plugins need uv: pip install 'modelyard[plugins]'")
    return found


def _reason(text: str) -> str:
    """What uv says is wrong, without what it says on the way there."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if line.lstrip().startswith(("error", "×", "Caused by"))), 0)
    return "\n".join(lines[start:][:12]) or "uv gave no reason"


def _requires_python(source: Path) -> str:
    """What the plugin's own files say of Python's version; empty where they say nothing."""
    if (source / "pyproject.toml").is_file():
        import tomllib

        try:
            project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            return ""  # uv says it better
        return str((project.get("project") or {}).get("requires-python") or "")
    return ""


def choose(pythons: Sequence[Python], wanted: str) -> Python | None:
    """The first that fits a `requires-python`."""
    return next((one for one in pythons if fits(one.minor, wanted)), None)


def fits(minor: tuple[int, int], wanted: str) -> bool:
    """Whether 3.x satisfies a `requires-python`, as far as its first two numbers say."""
    for operator, major, second in _BOUND.findall(wanted):
        bound = (int(major), int(second))
        if not {
            ">=": minor >= bound, ">": minor >= bound, "<=": minor <= bound, "<": minor < bound,
            "==": minor == bound, "~=": minor >= bound, "!=": minor != bound,
        }[operator]:  # fmt: skip
            return False
    return True


def _none_fits(pythons: Sequence[Python], wanted: str) -> str:
    there = ", ".join(".".join(map(str, one.version)) for one in pythons) or "none"
    return (
        f"it needs Python {wanted or '3.11 or newer'}, and of those on this machine ({there}) none fits; install one "
        "(for instance `uv python install 3.12`): none is downloaded for you"
    )


def _rank(minor: tuple[int, int]) -> int:
    return _PREFERRED.index(minor) if minor in _PREFERRED else len(_PREFERRED)


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME", "/"))
    for version in (".".join(map(str, one)) for one in _PREFERRED):
        for folder in environ.get("PATH", "").split(os.pathsep):
            path = Path(folder) / f"python{version}"
            if folder and os.path.isfile(path):  # noqa: PTH113  False where it must not be looked at; `Path` raises
                yield path
    for root in (Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
                 Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")):  # fmt: skip
        with suppress(OSError):  # somebody else's home folder
            yield from sorted(root.glob("*3.1[1-9]*/bin/python3"))
    yield Path(sys.executable)


async def _probe(path: Path) -> Python | None:
    """What an interpreter says of itself; None where it is a stand-in that starts nothing."""
    code = "import sys; print(sys.implementation.name, *sys.version_info[:3], sys.base_prefix, sep='\\n')"
    try:
        process = await asyncio.create_subprocess_exec(
            str(path), "-I", "-S", "-c", code, cwd="/", stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, _ = await process.communicate()
    except OSError:
        return None
    if process.returncode or not out.startswith(b"cpython"):
        return None
    _, major, minor, micro, prefix = out.decode().splitlines()
    real = Path(prefix) / "bin" / f"python{major}.{minor}"
    return Python(real if real.is_file() else path, (int(major), int(minor), int(micro)))


async def _locked(folder: Path, name: str) -> int:
    """A lock between processes, held until the descriptor is closed, however that comes about."""

    def wait() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f".lock-{name}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    return await asyncio.to_thread(wait)
