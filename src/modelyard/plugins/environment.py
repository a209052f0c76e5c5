"""Virtual environments for plugins' dependencies. Plugins with the same resolved set
share one.

An environment is named after the digest of its contents and never changes. `uv`
resolves and installs; Python must exist on this machine and is never downloaded.
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
from typing import Any

import msgspec

from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError, PackageError, PluginError
from modelyard.base.json_types import EMPTY_OBJECT
from modelyard.plugins.package import save
from modelyard.plugins.requirements import (
    Substitutes,
    check_export,
    check_lock,
    parse_requirements,
    read_requirements,
)
from modelyard.plugins.sdk_environment import (
    link_bytecode,
    remove_bytecode,
    sdk_lines,
    starts_alike,
)
from modelyard.plugins.source_packages import (
    SourceBuilder,
    source_packages,
    split_lines,
)

READY = "modelyard.json"
"""Marker file; it exists only in a complete environment."""
_TIMEOUT_SECONDS = 600.0
# Plugins run as users of their own, who must be able to read what uv installs. A shell
# sets the umask because uvloop refuses the argument that asyncio has for it.
_WITH_READABLE_FILES = ("/bin/sh", "-c", 'umask 022; exec "$@"', "sh")
# The sources of a package are foreign input: limits on seconds of CPU and KB of memory.
_WITH_LIMITS = (
    "/bin/sh",
    "-c",
    'umask 022; ulimit -t 300; ulimit -v 4000000; exec "$@"',
    "sh",
)
# The only variables that uv gets: no secret of the server must reach a package's build.
_PASSED_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
_NO_VARIABLES: Mapping[str, str] = {}
_LAYOUT = "sdk"
"""Keeps environments apart from those that earlier versions made."""
_Lines = tuple[Sequence[str], Sequence[str]]
"""Requirement lines that are (installed from wheels, built from sources)."""
_PREFERRED_VERSIONS = ((3, 12), (3, 13), (3, 14), (3, 11))
"""Python versions in order of preference. Most plugins target the first; the last is
for those that newer SDKs dropped."""
_VERSION_BOUND = re.compile(r"(>=|==|~=|<=|<|>|!=)\s*(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Python:
    """A Python interpreter on this machine."""

    path: Path
    version: tuple[int, int, int]

    @property
    def minor(self) -> tuple[int, int]:
        """(major, minor) version."""
        return self.version[:2]


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete virtual environment."""

    folder: Path
    name: str

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    @property
    def base(self) -> Path:
        """The interpreter that the environment was created from, used before any
        installed code may run."""
        return Path(str(self._metadata()["python"]))

    @property
    def packages(self) -> Path:
        """The folder of the installed packages."""
        major, minor, *_ = self._metadata()["version"]
        return self.folder / "lib" / f"python{major}.{minor}" / "site-packages"

    @property
    def sdk(self) -> str:
        """The name of the environment that has nothing but the SDK and what it needs,
        from the same files; its own name if it is one, and "" if there is none that
        may be shared."""
        return str(self._metadata().get("sdk", ""))

    def _metadata(self) -> dict[str, Any]:
        return msgspec.json.decode((self.folder / READY).read_bytes())

    def touch(self) -> None:
        """Mark the environment as used now; `collect` removes unused ones."""
        os.utime(self.folder / READY)


@dataclass(slots=True)
class Environments:
    """Creates, finds and removes environments below a folder."""

    folder: Path
    environ: Mapping[str, str]
    offline: bool = False
    wheelhouse: Path | None = None
    """A folder of wheels; if set, it is the only source of packages."""
    index_url: str = ""
    substitutes: Substitutes = field(default_factory=dict[str, str])
    """Requirements of the index that replace packages from repositories and URLs."""
    downloads_python: bool = False
    """Whether uv may install an interpreter that a plugin requires and the machine does
    not have."""
    _pythons: list[Python] | None = field(default=None, init=False)

    async def prepare(self, source: Path, *, name: str) -> Environment:
        """Return the environment for the plugin in a folder, creating it if necessary.

        Raises PluginError naming the package that cannot be installed and the reason;
        nothing is left behind then.
        """
        source = Path.cwd() / source  # uv is started elsewhere
        self.folder.mkdir(parents=True, exist_ok=True)
        requires_python = _requires_python(source)
        python = await self._python_for(requires_python, name)
        resolved = await self._resolve(source, python, name)
        lines = split_lines(resolved, source_packages(source))
        return await self._ensure_built(resolved, lines, python, name)

    async def _ensure_built(
        self, resolved: str, lines: _Lines, python: Python, name: str
    ) -> Environment:
        """Return the environment of these packages, building it if necessary. `lines`
        are those of `resolved`. Raises PluginError, which names the plugin `name`."""
        # The digest covers the interpreter too: wheels depend on it.
        digest = hashlib.sha256(
            f"{_LAYOUT}\n{python.path}\n{python.version}\n{resolved}".encode()
        ).hexdigest()[:24]
        target = self.folder / digest
        lock = await _acquire_lock(self.folder, digest)
        try:
            # Checked under the lock, since another process may have built it meanwhile.
            if not (target / READY).is_file():
                await self._build(target, python, lines, name)
        finally:
            os.close(lock)
        environment = Environment(target.resolve(), digest)
        environment.touch()
        return environment

    def find(self, digest: str) -> Environment | None:
        """Return the environment with that digest; None if it does not exist or is
        incomplete."""
        folder = (self.folder / digest).resolve()
        return Environment(folder, digest) if (folder / READY).is_file() else None

    def collect(self, used: Sequence[str], *, older_than: float) -> list[str]:
        """Remove environments that are not in `used` and have not been used for
        `older_than` seconds. Returns their names."""
        removed_names: list[str] = []
        # A process that has loaded the SDK's environment serves plugins of others.
        shared = {self.sdk_of(name) for name in used}
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name in {*used, *shared} or folder.name.startswith("."):
                continue
            # An incomplete environment without the marker is left over from a crash.
            ready = folder / READY
            last = ready.stat().st_mtime if ready.is_file() else folder.stat().st_mtime
            if SystemClock().time() - last > older_than:
                shutil.rmtree(folder, ignore_errors=True)
                removed_names.append(folder.name)
        return removed_names

    def sdk_of(self, name: str) -> str:
        """Return the name of an environment's SDK environment; "" if there is none."""
        environment = self.find(name) if name else None
        return environment.sdk if environment is not None else ""

    async def _python_for(self, requires_python: str, name: str) -> Python:
        """Return the interpreter for a plugin, installing one if that is allowed and
        necessary. Raises PluginError, which names the plugin `name`."""
        python = choose(await self.pythons(), requires_python)
        version = version_to_install(requires_python)
        # A folder of wheels stands for a machine without network access.
        is_online = not self.offline and self.wheelhouse is None
        if python is None and self.downloads_python and is_online and version:
            await self._install_python(version, name)
            python = choose(await self.pythons(), requires_python)
        if python is None:
            message = _no_python_message(await self.pythons(), requires_python)
            raise PluginError(message, plugin=name)
        return python

    async def _install_python(self, version: str, name: str) -> None:
        """Let uv install an interpreter next to the environments. uv verifies what it
        downloads. Raises PluginError, which names the plugin `name`."""
        # Two installations at once would write into the same folder.
        lock = await _acquire_lock(self.folder, f"python-{version}")
        try:
            await self._uv(
                ["python", "install", "--no-bin", version],
                name,
                variables={
                    "UV_PYTHON_DOWNLOADS": "manual",
                    "UV_PYTHON_INSTALL_DIR": str(self._python_folder),
                },
                purpose=f"Python {version}, which the plugin requires, cannot be"
                " installed",
            )
        finally:
            os.close(lock)
        # Looked for again with the next question.
        self._pythons = None

    @property
    def _python_folder(self) -> Path:
        """The folder of the interpreters that uv has installed."""
        return self.folder.parent / "pythons"

    async def pythons(self) -> Sequence[Python]:
        """Return the CPython interpreters from 3.11 on, preferred ones first: from
        PATH, pyenv and uv."""
        if self._pythons is None:
            candidates = [*_candidates(self.environ), *_installed(self._python_folder)]
            probes = [_probe(path) for path in candidates]
            usable = [
                python
                for python in await asyncio.gather(*probes)
                if python is not None and python.version >= (3, 11)
            ]
            # Several names may lead to the same interpreter; the first candidate wins.
            unique = {python.path: python for python in reversed(usable)}
            self._pythons = sorted(
                unique.values(), key=lambda python: _rank(python.minor)
            )
        return self._pythons

    # resolving

    async def _resolve(self, source: Path, python: Python, name: str) -> str:
        """Return the resolved packages, one `package==version` per line. The result is
        cached by the input files."""
        inputs = [
            source / file_name
            for file_name in ("uv.lock", "pyproject.toml", "requirements.txt")
        ]
        present = [path for path in inputs if path.is_file()]
        if not present:
            raise PluginError(
                "The plugin has neither pyproject.toml nor requirements.txt",
                plugin=name,
            )
        try:
            requirements = await asyncio.to_thread(
                _check_requirements, source, self.substitutes
            )
        except PackageError as error:
            raise PluginError(
                f"The plugin's dependencies cannot be installed: {error}", plugin=name
            ) from error
        # The key covers everything that influences resolution: interpreter and input
        # files.
        # `wheels` keeps older results apart, which may name source packages.
        digest = hashlib.sha256(
            f"wheels\n{python.version}{sorted(self.substitutes.items()) or ''}".encode()
        )
        for path in present:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        cache_file = self.folder / ".resolved" / f"{digest.hexdigest()[:32]}.txt"
        if cache_file.is_file():
            return cache_file.read_text("utf-8")
        is_locked = {"uv.lock", "pyproject.toml"} <= {path.name for path in present}
        # An empty working folder: uv must not pick up other files of the plugin.
        with tempfile.TemporaryDirectory(prefix="modelyard-resolve-") as name_of_folder:
            text = await self._uv(
                _resolve_arguments(
                    source,
                    requirements,
                    Path(name_of_folder),
                    is_locked=is_locked,
                    python=python,
                    index_options=self._index_options(),
                ),
                name,
                cwd=Path(name_of_folder),
            )
        lines = sorted(
            check_export(text, self.substitutes)
            if is_locked
            else parse_requirements(text, "The requirements resolved by uv")
        )
        # Without the SDK the process would start and never answer.
        if not any(
            line.lower().startswith(("dify-plugin", "dify_plugin")) for line in lines
        ):
            raise PluginError(
                "The plugin does not depend on dify_plugin, which every plugin"
                " requires",
                plugin=name,
            )
        resolved = "\n".join(lines) + "\n"
        save(cache_file, resolved.encode())
        return resolved

    def _index_options(self) -> list[str]:
        """Return uv's options for the package source."""
        if self.wheelhouse is not None:
            return ["--no-index", "--find-links", str(self.wheelhouse)]
        return ["--default-index", self.index_url] if self.index_url else []

    # building

    async def _build(
        self,
        target: Path,
        python: Python,
        lines: _Lines,
        name: str,
    ) -> None:
        """Create a virtual environment at `target` and install the packages.

        `lines` are the pinned requirements that are installed from wheels, and those
        that are built; all without dependencies. An incomplete environment at `target`
        is replaced. Raises PluginError, which names the plugin `name`, if uv fails;
        nothing is left behind then.
        """
        wheels, sources = lines
        # Built under another name and renamed at the end, so that an incomplete
        # environment is never found.
        partial = target.with_name(f".partial-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            # Relocatable, because the folder is renamed afterwards.
            await self._uv(
                [
                    "venv",
                    "--quiet",
                    "--relocatable",
                    "--python",
                    str(python.path),
                    str(partial),
                ],
                name,
            )
            requirements_file = partial / "resolved.txt"
            requirements_file.write_text("\n".join(wheels) + "\n", "utf-8")
            await self._uv(
                # Only wheels and no dependencies: building a package runs its code.
                [
                    "pip",
                    "install",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                    "--python",
                    str(partial / "bin" / "python"),
                    *self._index_options(),
                    "--requirement",
                    str(requirements_file),
                ],
                name,
            )
            if sources:
                await self._build_sources(partial, python, sources, name)
            sdk = target.name
            if (needed := sdk_lines(partial, wheels)) != [*wheels, *sources]:
                sdk = await self._sdk_environment(partial, needed, python, name)
            await self._compile(partial, python, sdk)
            metadata = {
                "python": str(python.path),
                "version": list(python.version),
                "made_at": time.time(),
                "sdk": sdk,
            }
            (partial / READY).write_bytes(msgspec.json.encode(metadata))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    async def _sdk_environment(
        self, environment: Path, lines: Sequence[str], python: Python, name: str
    ) -> str:
        """Return the name of the environment that has only what the SDK needs, built if
        necessary; "" if plugins of `environment` cannot be forked from it."""
        if not lines:
            return ""
        resolved = "\n".join(lines) + "\n"
        sdk = await self._ensure_built(resolved, (lines, ()), python, name)
        is_alike = await asyncio.to_thread(starts_alike, environment, sdk.folder)
        return sdk.name if is_alike else ""

    async def _compile(self, environment: Path, python: Python, sdk: str) -> None:
        """Compile the modules of a new environment, except those whose bytecode other
        environments have."""
        await asyncio.to_thread(remove_bytecode, environment)
        # Only environments of this layout: older ones may have kept what packages brought.
        others = [self.folder / sdk] if sdk and sdk != environment.name else []
        others += [path.parent for path in self.folder.glob(f"*/{READY}")]
        others = [path for path in others if _has_own_bytecode(path)]
        await asyncio.to_thread(link_bytecode, environment, others)
        await compile_modules(environment / "lib", python.path)

    async def _build_sources(
        self, environment: Path, python: Python, lines: Sequence[str], name: str
    ) -> None:
        """Build packages that have no wheel, confined, and add them to an environment.
        Raises PluginError."""

        async def uv(arguments: Sequence[str], variables: Mapping[str, str]) -> str:
            """Run uv for this plugin."""
            return await self._uv(arguments, name, variables=variables)

        # Links are resolved, since a confined process does not see them.
        folder = await asyncio.to_thread(self.folder.resolve)
        work = Path(tempfile.mkdtemp(prefix=".sources-", dir=folder))
        try:
            builder = SourceBuilder(uv, python.path, self._index_options())
            await builder.install(lines, environment, work)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _uv(
        self,
        arguments: Sequence[str],
        name: str,
        *,
        cwd: Path | None = None,
        variables: Mapping[str, str] = EMPTY_OBJECT,
        purpose: str = "The plugin's dependencies cannot be installed",
    ) -> str:
        """Run uv and return its output.

        `variables` replace those that it usually gets; `purpose` begins the error.
        Raises PluginError with uv's reason, or after the timeout.
        """
        environ = {
            key: self.environ[key] for key in _PASSED_VARIABLES if key in self.environ
        }
        environ |= {
            key: value for key, value in self.environ.items() if key.startswith("UV_")
        }
        # Downloads of interpreters are switched off explicitly.
        environ |= {
            "UV_CACHE_DIR": str(self.folder / ".cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            **variables,
        }
        options = ["--offline"] if self.offline or self.wheelhouse is not None else []
        process = await asyncio.create_subprocess_exec(
            # The shell replaces itself by uv, so the process id stays the same.
            *_WITH_READABLE_FILES,
            uv_path(),
            *arguments,
            *options,
            cwd=cwd or self.folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                stdout, err = await process.communicate()
        except TimeoutError:
            raise PluginError(
                "The plugin's dependencies were not installed within"
                f" {_TIMEOUT_SECONDS:.0f} s",
                plugin=name,
            ) from None
        finally:
            # Reached on a timeout or a cancellation.
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise PluginError(
                f"{purpose}: {_reason(err.decode('utf-8', 'replace'))}", plugin=name
            )
        return stdout.decode()


def _has_own_bytecode(folder: Path) -> bool:
    """Return whether all bytecode of an environment was compiled here."""
    try:
        return "sdk" in msgspec.json.decode((folder / READY).read_bytes())
    except OSError:
        return False  # not built yet, or just collected


async def compile_modules(folder: Path, interpreter: Path) -> None:
    """Compile the modules in a folder. Otherwise every start of a plugin would do it
    again, since a plugin must not write there.

    None of their code is run. A module that cannot be compiled, or not within the
    limits, is left to the process that imports it.
    """
    process = await asyncio.create_subprocess_exec(
        *_WITH_LIMITS,
        str(interpreter),
        # Without site, which would run hooks of the installed packages.
        "-I",
        "-S",
        "-W",
        "ignore",
        "-m",
        "compileall",
        # With all processors: somebody waits for the installation.
        "-j",
        "0",
        "-qq",
        str(folder),
        cwd="/",
        env={},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _check_requirements(source: Path, substitutes: Substitutes) -> list[str]:
    """Return a plugin's requirements. Raises PackageError if it requires anything but
    wheels from an index."""
    if (source / "pyproject.toml").is_file() and (source / "uv.lock").is_file():
        check_lock(source, substitutes)
    return read_requirements(source, substitutes)


def _resolve_arguments(
    source: Path,
    requirements: Sequence[str],
    work: Path,
    *,
    is_locked: bool,
    python: Python,
    index_options: Sequence[str],
) -> list[str]:
    """Return uv's arguments for resolving, and copy the checked input files into the
    folder `work`."""
    # With a lock file, uv only exports it; otherwise it resolves the requirements.
    if is_locked:
        for file in ("pyproject.toml", "uv.lock"):
            shutil.copyfile(source / file, work / file)
        return [
            "export",
            "--frozen",
            "--no-dev",
            "--no-emit-project",
            "--no-header",
            "--no-annotate",
            "--no-build",
            "--no-config",
            "--python",
            str(python.path),
        ]
    input_file = work / "requirements.in"
    input_file.write_text("\n".join(requirements) + "\n", "utf-8")
    return [
        "pip",
        "compile",
        "--no-header",
        "--no-annotate",
        "--only-binary",
        ":all:",
        "--python",
        str(python.path),
        *index_options,
        str(input_file),
    ]


def uv_path() -> str:
    """Return the `uv` next to our own Python, or else the one on PATH. Raises
    ConfigError if there is none."""
    local_uv = Path(sys.executable).parent / "uv"
    executable = str(local_uv) if local_uv.is_file() else shutil.which("uv")
    if executable is None:
        raise ConfigError("Plugins require uv: pip install 'modelyard[plugins]'")
    return executable


def _reason(text: str) -> str:
    """Return the error part of uv's output, without its progress messages."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    start = next(
        (
            n
            for n, line in enumerate(lines)
            if line.lstrip().startswith(("error", "×", "Caused by"))
        ),
        0,
    )
    return "\n".join(lines[start:][:12]) or "uv reported no reason"


def _requires_python(source: Path) -> str:
    """Return `requires-python` of the plugin's pyproject.toml; "" if there is none."""
    if (source / "pyproject.toml").is_file():
        import tomllib

        try:
            project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            return ""  # uv says it better
        return str(
            (project.get("project") or EMPTY_OBJECT).get("requires-python") or ""
        )
    return ""


def choose(pythons: Sequence[Python], requires_python: str) -> Python | None:
    """Return the first interpreter whose version satisfies a `requires-python`.

    `pythons` has the preferred interpreters first; an empty `requires_python` accepts
    any of them. Only major and minor version are compared. Returns None if no
    interpreter fits.
    """
    return next(
        (python for python in pythons if satisfies(python.minor, requires_python)), None
    )


def version_to_install(requires_python: str) -> str:
    """Return the preferred version that satisfies a `requires-python`, such as `3.12`;
    "" if none of the preferred ones does."""
    return next(
        (
            ".".join(map(str, minor))
            for minor in _PREFERRED_VERSIONS
            if satisfies(minor, requires_python)
        ),
        "",
    )


def satisfies(minor: tuple[int, int], requires_python: str) -> bool:
    """Return whether a minor version satisfies a `requires-python`; only its first two
    numbers are compared."""
    for operator, major, second in _VERSION_BOUND.findall(requires_python):
        bound = (int(major), int(second))
        # Comparisons by minor version are imprecise for patch bounds; uv checks them
        # exactly later.
        if not {
            ">=": minor >= bound,
            ">": minor >= bound,
            "<=": minor <= bound,
            "<": minor < bound,
            "==": minor == bound,
            "~=": minor >= bound,
            "!=": minor != bound,
        }[operator]:
            return False
    return True


def _no_python_message(pythons: Sequence[Python], requires_python: str) -> str:
    """Return the error text for a plugin that no interpreter here satisfies."""
    installed_versions = (
        ", ".join(".".join(map(str, python.version)) for python in pythons) or "none"
    )
    return (
        f"The plugin requires Python {requires_python or '3.11 or newer'};"
        f" installed versions: {installed_versions}. Install a matching version,"
        f" for example with `uv python install"
        f" {version_to_install(requires_python) or '3.12'}`; it is not downloaded"
        " unless plugins.download_python is true and the plugins are installed from an"
        " index"
    )


def _rank(minor: tuple[int, int]) -> int:
    """Return a minor version's position in the order of preference.

    Lower is better; versions without a preference come last.
    """
    return (
        _PREFERRED_VERSIONS.index(minor)
        if minor in _PREFERRED_VERSIONS
        else len(_PREFERRED_VERSIONS)
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the paths at which a Python interpreter may be found.

    First PATH for the preferred versions, then the folders of pyenv and uv, then the
    running interpreter. Paths may repeat.
    """
    home = Path(environ.get("HOME", "/"))
    for version in (".".join(map(str, minor)) for minor in _PREFERRED_VERSIONS):
        for folder in environ.get("PATH", "").split(os.pathsep):
            path = Path(folder) / f"python{version}"
            if folder and os.path.isfile(path):  # noqa: PTH113
                yield path
    for root in (
        Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"),
    ):
        yield from _installed(root)
    yield Path(sys.executable)


def _installed(root: Path) -> Iterator[Path]:
    """Yield the interpreters in a folder of pyenv or uv; none if it is not readable."""
    with suppress(OSError):
        # Matches 3.11 to 3.19 in both layouts.
        yield from sorted(root.glob("*3.1[1-9]*/bin/python3"))


async def _probe(path: Path) -> Python | None:
    """Ask an interpreter for its version; None if it is not a working CPython."""
    code = (
        "import sys; print(sys.implementation.name, *sys.version_info[:3],"
        " sys.base_prefix, sep='\\n')"
    )
    # Isolated and without site: the interpreter must not run hooks of installed
    # packages.
    try:
        process = await asyncio.create_subprocess_exec(
            str(path),
            "-I",
            "-S",
            "-c",
            code,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        stdout, _ = await process.communicate()
    except OSError:
        return None
    if process.returncode or not stdout.startswith(b"cpython"):
        return None
    _, major, minor, micro, prefix = stdout.decode().splitlines()
    # Use the real interpreter instead of a shim or a virtual environment's link.
    real = Path(prefix) / "bin" / f"python{major}.{minor}"
    return Python(
        real if real.is_file() else path, (int(major), int(minor), int(micro))
    )


async def _acquire_lock(folder: Path, name: str) -> int:
    """Acquire a lock between processes. It is held until the returned descriptor is
    closed, also by a crash."""

    def wait() -> int:
        """Block until the lock is acquired and return its descriptor."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f".lock-{name}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    return await asyncio.to_thread(wait)
