"""`modelyard plugin`: create, test, debug, package, sign and install plugins."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
import msgspec

from modelyard.base.errors import ConfigError, ModelyardError, PackageError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.json_types import is_object
from modelyard.cli.assignments import assignments_option
from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    settings_of,
    success_text,
)
from modelyard.cli.plugin_credentials import credential
from modelyard.cli.plugin_permissions import (
    grant_options,
    installation_grant,
    permission,
    print_refused,
)
from modelyard.cli.plugin_subscriptions import subscription
from modelyard.cli.usage import tenant_option
from modelyard.models.types import JSON
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.market import add_to_folder
from modelyard.plugins.package import (
    MAX_BYTES,
    Package,
    checksum,
    folder_files,
    load_package,
    package_folder,
    save,
)
from modelyard.plugins.scaffold import CATEGORIES, PERMISSIONS, ScaffoldOptions, create
from modelyard.plugins.signature import CATEGORIES as SIGNERS
from modelyard.plugins.signature import generate_keys, read_keys, sign, verify
from modelyard.tenant_plugins.grants import Grant
from modelyard.tenant_plugins.packages import Installer

if TYPE_CHECKING:
    from rich.progress import Progress

    from modelyard.app import Modelyard
    from modelyard.tenant_plugins.plugins import Installed


_PATH = click.Path(path_type=Path)
_MB = 1 << 20
_unsigned_option = click.option(
    "--unsigned",
    is_flag=True,
    help=(
        "Install even without a trusted signature. Required if the server has several"
        " tenants."
    ),
)


@click.group()
def plugin() -> None:
    """Create, test, debug, package, sign and install plugins."""


plugin.add_command(credential)
plugin.add_command(permission)
plugin.add_command(subscription)

# ------------------------------------------------------------ create and package


@plugin.command()
@click.argument("folder", type=_PATH, required=False)
@click.option(
    "--name", help="Name, from the characters a-z, 0-9, _ and -. Default: the folder's."
)
@click.option("--author", help="Name of the author.")
@click.option("--description", help="What the plugin does, in one sentence.")
@click.option(
    "--category", type=click.Choice(list(CATEGORIES)), help="What the plugin provides."
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="Permission that the plugin requests; repeatable.",
)
@click.option(
    "--storage-size",
    type=int,
    default=1_048_576,
    show_default=True,
    help="Maximum size of the plugin's stored data in bytes.",
)
@click.option("--quick", is_flag=True, help="Do not prompt.")
def init(
    folder: Path | None,
    quick: bool,
    permissions: tuple[str, ...],
    storage_size: int,
    **options: str | None,
) -> None:
    """Scaffold a plugin in FOLDER (default: NAME), ready to run. Prompts for missing
    options at a terminal."""
    folder_name = folder.name if folder else ""
    is_interactive = not quick and sys.stdin.isatty()
    if is_interactive:
        options = _prompt_for_missing(options, folder_name)
    name = options["name"] or folder_name
    category = options["category"]
    if not name or not category:
        raise click.UsageError(
            "--name and --category are required without prompts, that is, with --quick"
            " or without a terminal"
        )
    # Permissions given as options are complete; there are no further questions.
    if is_interactive and not permissions:
        permissions = _prompt_for_permissions()
    scaffold_options = ScaffoldOptions(
        name=name,
        author=options["author"] or "me",
        category=category,
        description=options["description"] or "",
        permissions=permissions,
        storage_size=storage_size,
    )
    target = folder or Path(name)
    for path in create(target, scaffold_options):
        click.echo(path)
    print_note(
        f"test it with `modelyard plugin test {target}`, install it with `modelyard"
        f" plugin install {target}`"
    )


def _prompt_for_missing(
    options: Mapping[str, str | None], folder_name: str
) -> dict[str, str | None]:
    """Return the options of `init`, with answers to prompts for those that are missing."""
    user_name = os.environ.get("USER", "me")
    categories = click.Choice(list(CATEGORIES))
    return {
        "name": options["name"] or click.prompt("Name", default=folder_name or None),
        "author": options["author"] or click.prompt("Author", default=user_name),
        "description": (
            options["description"] or click.prompt("Description", default="")
        ),
        "category": (
            options["category"]
            or click.prompt("Category", type=categories, default="tool")
        ),
    }


def _prompt_for_permissions() -> tuple[str, ...]:
    """Return the permissions that the user confirms."""
    return tuple(
        permission_name
        for permission_name in PERMISSIONS
        if click.confirm(f"Request permission {permission_name}?", default=False)
    )


@plugin.command()
@click.argument("folder", type=_PATH)
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Package file to write. Default: NAME-VERSION.difypkg.",
)
@click.option(
    "--max-size",
    type=int,
    default=MAX_BYTES // _MB,
    show_default=True,
    help="Maximum size of the package in MiB.",
)
def package(folder: Path, output: Path | None, max_size: int) -> None:
    """Package a plugin's FOLDER into one file. Excludes files that .difyignore or
    .gitignore names."""
    packed = package_folder(folder, max_bytes=max_size * _MB)
    target = output or Path(f"{packed.manifest.name}-{packed.manifest.version}.difypkg")
    save(target, packed.data)
    click.echo(target)
    print_note(
        f"{packed.identifier}, {len(packed.files)} files, {len(packed.data):,} bytes"
    )


@plugin.command("checksum")
@click.argument("path", type=_PATH)
def show_checksum(path: Path) -> None:
    """Print the checksum of the package at PATH, or of the package that a folder would
    produce."""
    # A folder's checksum is computed over the files that would be packaged.
    click.echo(
        checksum(folder_files(path)) if path.is_dir() else load_package(path).checksum
    )


@plugin.command()
@click.argument("name", type=_PATH)
def keygen(name: Path) -> None:
    """Generate a signing key pair. NAME.private.pem signs packages, NAME.public.pem
    verifies them."""
    private, public = generate_keys()
    for key_type, data, mode in (
        ("private", private, 0o600),
        ("public", public, 0o644),
    ):
        path = name.with_name(f"{name.name}.{key_type}.pem")
        # Overwriting a key would make packages signed with it unverifiable.
        if path.exists():
            raise ConfigError(
                f"Key file {str(path)!r} already exists and is not overwritten; choose"
                " another name"
            )
        save(path, data)
        # The private key is readable by its owner only.
        path.chmod(mode)
        click.echo(path)


@plugin.command("sign")
@click.argument("path", type=_PATH)
@click.option(
    "--key",
    "key",
    type=_PATH,
    required=True,
    help="Private key file, as `modelyard plugin keygen` writes it (NAME.private.pem).",
)
@click.option(
    "--category",
    type=click.Choice(SIGNERS),
    default="community",
    show_default=True,
    help="Category of the signer.",
)
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Signed package to write. Default: NAME.signed.difypkg.",
)
def sign_package(path: Path, key: Path, category: str, output: Path | None) -> None:
    """Sign the package at PATH and write the signed copy to a new file."""
    data = load_package(path).data
    try:
        private = key.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Key {str(key)!r} cannot be read: {error.strerror}"
        ) from error
    target = output or path.with_name(f"{path.stem}.signed.difypkg")
    save(target, sign(data, private, category=category, signed_at=int(time.time())))
    click.echo(target)


@plugin.command("verify")
@click.argument("path", type=_PATH)
@click.option(
    "--key",
    "keys",
    type=_PATH,
    multiple=True,
    help=(
        "Trusted public key file (NAME.public.pem); repeatable. Default: those of"
        " plugins.public_keys."
    ),
)
@json_option
@click.pass_context
def verify_package(
    ctx: click.Context, path: Path, keys: tuple[Path, ...], as_json: bool
) -> None:
    """Verify a signature and print the key, time and category. Exit code 1 if missing
    or invalid."""
    configured_keys = [
        Path(key_path).expanduser() for key_path in settings_of(ctx).plugins.public_keys
    ]
    # Keys on the command line replace the configured ones.
    signature = verify(load_package(path).data, read_keys(keys or configured_keys))
    if as_json:
        print_json(
            {
                "key": signature.key,
                "category": signature.category,
                "signed_at": signature.signed_at,
            }
        )
        return
    signed_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(signature.signed_at))
    click.echo(
        f"signed with {signature.key} on {signed_at}, category {signature.category}"
    )


# ------------------------------------------------------------ test and debug


async def _install_for_test(yard: "Modelyard", path: Path) -> Package:
    """Install the plugin on this machine without adding it to a tenant."""
    packed = await asyncio.to_thread(load_package, path)
    with closing(_Progress(packed.manifest.id)) as step:
        await yard.services.plugins.host.packages.install(packed, step)
    return packed


@plugin.command()
@click.argument("path", type=_PATH)
@assignments_option(
    "--credential",
    "credentials",
    help="Field of the credentials; repeatable.",
)
@json_option
@click.pass_context
def test(
    ctx: click.Context,
    path: Path,
    credentials: Sequence[tuple[str, str]],
    as_json: bool,
) -> None:
    """Run conformance checks on the plugin at PATH: load, start, call, stream, stop and
    error mapping. Exit code 1 on failure."""
    from modelyard.plugins.conformance import Finding, run_checks

    async def work(yard: "Modelyard") -> list[Finding]:
        """Install the plugin, run the checks, and remove it again."""
        packed = await _install_for_test(yard, path)
        identifier = str(packed.identifier)
        try:
            return await run_checks(
                yard.services.plugins.host.packages.declaration(identifier),
                lambda call: yard.services.plugins.host.call(identifier, call),
                dict(credentials),
            )
        finally:
            # If no tenant has the plugin, nobody else would ever delete its files.
            await yard.services.plugins.installations.delete_unused_packages(identifier)

    findings = run_with_modelyard(ctx, work)
    if as_json:
        print_json(
            [
                {
                    "what": finding.check_name,
                    "is_good": finding.has_passed,
                    "detail": finding.detail,
                }
                for finding in findings
            ]
        )
    else:
        states = {
            True: success_text("passed"),
            False: failure_text("failed"),
            None: "skipped",
        }
        print_table(
            "",
            ("", "check", "detail"),
            [
                (states[finding.has_passed], finding.check_name, finding.detail)
                for finding in findings
            ],
        )
    # None means that a check was skipped, which is not a failure.
    if any(finding.has_passed is False for finding in findings):
        ctx.exit(1)


@plugin.command()
@click.argument("path", type=_PATH)
@click.pass_context
def run(ctx: click.Context, path: Path) -> None:
    """Run a plugin and exchange JSON lines over stdin and stdout.

    Request: {"invoke_id": "1", "type": "tool", "action": "invoke_tool", "request":
    {...}}

    Each response is a line with the request's invoke_id. Runs until standard input is
    closed.
    """

    async def serve_requests(yard: "Modelyard") -> None:
        """Serve requests from standard input until it is closed."""
        packed = await _install_for_test(yard, path)
        identifier = str(packed.identifier)
        runner = _PluginRunner(yard, packed)
        _print_message(None, "plugin_ready", {"plugin": identifier})
        # The event loop holds tasks only weakly; the set keeps them alive.
        tasks: set[asyncio.Task[None]] = set()
        async for line in _lines():
            try:
                request = _parse_request(line)
            except ValueError as error:
                # Without a valid request there is no invoke_id to answer with.
                _print_message(None, "error", {"error": f"Invalid request: {error}"})
                continue
            # Requests run side by side, so that a slow one does not delay the others.
            task = asyncio.create_task(runner.respond(request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        # Standard input is closed: let running requests finish.
        if tasks:
            await asyncio.wait(tasks)
        await yard.services.plugins.installations.delete_unused_packages(identifier)

    run_with_modelyard(ctx, serve_requests)


def _parse_request(line: str) -> JSON:
    """Parse a line of standard input. Raises ValueError if it is not a JSON object."""
    try:
        request = json.loads(line)
    # Valid JSON that exhausts the interpreter's stack.
    except RecursionError:
        raise ValueError("The JSON is nested too deeply") from None
    if not is_object(request):
        raise ValueError(
            f"Expected a JSON object with invoke_id, type, action and request,"
            f" got {line.strip()[:80]}"
        )
    return request


@dataclass(frozen=True, slots=True)
class _PluginRunner:
    """Calls one plugin for requests of the command line."""

    yard: "Modelyard"
    package: Package

    async def respond(self, request: JSON) -> None:
        """Run one request and print its responses, its end or its error."""
        invoke_id = request.get("invoke_id")
        host = self.yard.services.plugins.host
        try:
            async with aclosing(
                host.call(str(self.package.identifier), self._call_of(request))
            ) as responses:
                async for message in responses:
                    _print_message(invoke_id, "plugin_response", message)
            _print_message(invoke_id, "plugin_invoke_end", {})
        except ModelyardError as error:
            _print_message(
                invoke_id,
                "error",
                {"error": str(error), "kind": getattr(error, "kind", "")},
            )

    def _call_of(self, request: JSON) -> PluginCall:
        """Return the call that a request describes. Raises InvokeBadRequestError for a
        missing or invalid field."""
        return PluginCall(
            tenant="default",
            plugin=self.package.manifest.id,
            # No tenant restricts a plugin under test, so it has all that it requests.
            permissions=self.package.manifest.permissions,
            user="cli",
            type=required_field(request, "type", str),
            action=required_field(request, "action", str),
            data=optional_field(request, "request", dict) or {},
        )


def _print_message(invoke_id: Any, message_type: str, response: Any) -> None:
    """Print one message as a line of JSON."""
    click.echo(
        msgspec.json.encode(
            {"invoke_id": invoke_id, "type": message_type, "response": response}
        ).decode()
    )


async def _lines() -> AsyncGenerator[str, None]:
    """Yield the lines of standard input that are not blank, without blocking the event
    loop."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            yield line


@plugin.command()
@click.argument("folder", type=_PATH, default=Path())
@click.option(
    "--start/--no-start",
    default=True,
    help="Also start the plugin, in its own environment. Default: yes.",
)
@tenant_option
@click.pass_context
def debug(ctx: click.Context, folder: Path, tenant: str, start: bool) -> None:
    """Connect a plugin folder to the running server. Its models and tools are available
    while it runs.

    Writes FOLDER/.env, with which `python -m main` connects too.
    """
    settings = settings_of(ctx)

    async def work(yard: "Modelyard") -> tuple[str, str]:
        """Return the tenant's debugging key, and the Python of the plugin's environment
        if it is to be started."""
        # Packaging validates the folder, so errors appear before the plugin connects.
        packed = await asyncio.to_thread(package_folder, folder)
        key = yard.services.plugins.debugged.key(tenant)
        if not start:
            return key, ""
        print_note(f"{packed.manifest.id}: creating its environment")
        environment = await yard.services.plugins.host.environments.prepare(
            folder, name=packed.manifest.id
        )
        return key, str(environment.python)

    key, python = run_with_modelyard(ctx, work)
    # A server that listens on all interfaces is reached by the loopback address.
    host = settings.plugins.debug_host
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    variables = {
        "INSTALL_METHOD": "remote",
        "REMOTE_INSTALL_URL": f"{host}:{settings.plugins.debug_port}",
        "REMOTE_INSTALL_KEY": key,
    }
    path = folder / ".env"
    save(
        path, "".join(f"{name}={value}\n" for name, value in variables.items()).encode()
    )
    # The file contains the debugging key.
    path.chmod(0o600)
    click.echo(path)
    if not start:
        print_note(
            "run `python -m main` in the folder, in an environment with dify_plugin"
            " installed"
        )
        return
    print_note("the plugin runs until Ctrl-C; restart it to apply changes to its files")
    # The plugin replaces this process, so that Ctrl-C and the terminal are its own.
    os.chdir(folder)
    os.execve(python, [python, "-m", "main"], {**os.environ, **variables})  # noqa: S606


# ------------------------------------------------------------ install


@plugin.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--version",
    "version",
    default="",
    help="Version of a market's plugin. Default: newest.",
)
@click.option(
    "--verify",
    "requires_signature",
    is_flag=True,
    help="Require a trusted signature.",
)
@_unsigned_option
@grant_options
@click.option(
    "--start/--no-start",
    "checks_start",
    default=True,
    help="Refuse a plugin that does not start on this machine. Default: yes.",
)
@tenant_option
@json_option
@click.pass_context
def install(
    ctx: click.Context,
    sources: Sequence[str],
    version: str,
    requires_signature: bool,
    unsigned: bool,
    checks_start: bool,
    tenant: str,
    as_json: bool,
    **decision: Any,
) -> None:
    """Install plugins. SOURCES are files, folders, bundles, URLs, author/name from a
    market, or owner/repo:VERSION/file.difypkg on GitHub.

    At a terminal it shows the permissions that a plugin requests, and asks for them.
    Without one, and without an option, all of them are granted.
    """
    # Whoever runs the command line has the operator's rights.
    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def install_sources(yard: "Modelyard") -> list["Installed"]:
        """Upload and install each package; a bundle may contain several."""
        installed_plugins: list[Installed] = []
        for source in sources:
            fetched = await _fetch_packages(yard, source, version, by)
            for data in fetched:
                packed, _ = await yard.services.plugins.packages.upload(
                    data, by, verify_signature=requires_signature
                )
                grant = installation_grant(
                    packed.manifest,
                    **decision,
                    is_only_package=len(sources) == len(fetched) == 1,
                )
                installed_plugins.append(
                    await _install_package(
                        yard, tenant, packed, grant, checks_start=checks_start
                    )
                )
        return installed_plugins

    installed_plugins = run_with_modelyard(ctx, install_sources)
    if as_json:
        print_json(
            [
                {"id": installed_plugin.id, "identifier": installed_plugin.identifier}
                for installed_plugin in installed_plugins
            ]
        )
        return
    for installed_plugin in installed_plugins:
        _print_installed(installed_plugin)


async def _install_package(
    yard: "Modelyard",
    tenant: str,
    packed: Package,
    grant: Grant | None,
    *,
    checks_start: bool,
) -> "Installed":
    """Install one package and show the progress. `grant` decides on its permissions,
    `checks_start` whether it is started once before."""
    with closing(_Progress(packed.manifest.id)) as step:
        return await yard.services.plugins.installations.add(
            tenant, packed, grant=grant, step=step, checks_start=checks_start
        )


def _print_installed(installed_plugin: "Installed") -> None:
    """Print what a plugin offers and which permissions it has."""
    declaration = installed_plugin.declaration
    offers = declaration.providers
    if declaration.model:
        provider = installed_plugin.installation.provider
        offers = [
            f"{provider}/{model.model}" for model in declaration.model.entity.models
        ]
    click.echo(
        f"{installed_plugin.plugin_id} {declaration.manifest.version}:"
        f" {', '.join(offers[:6])}"
    )
    if permissions := installed_plugin.permissions.allowed_names():
        print_note(
            f"granted: {', '.join(permissions)}; restrict with `modelyard plugin"
            f" permission {installed_plugin.plugin_id} --grant …`"
        )
    hint = f"modelyard plugin permission {installed_plugin.plugin_id}"
    print_refused(installed_plugin, hint)


class _Progress:
    """Progress of one installation: a bar at a terminal, otherwise one line per step."""

    _STEPS: ClassVar[Sequence[str]] = (
        "waiting",
        "unpacking",
        "installing dependencies",
        "compiling",
        "starting",
        "installed",
    )

    def __init__(self, name: str) -> None:
        self._name = name
        self._started_at = time.monotonic()
        self._bar: Progress | None = None

    def __call__(self, step_name: str) -> None:
        """Report the step that starts now."""
        # An unknown step is shown at the beginning of the bar.
        step_index = self._STEPS.index(step_name) if step_name in self._STEPS else 0
        is_last = step_index == len(self._STEPS) - 1
        if not sys.stderr.isatty():
            print_note(
                f"{self._name}: {step_name} ({time.monotonic() - self._started_at:.1f} s)"
                if is_last
                else f"{self._name}: {step_name} …"
            )
            return
        # Created on first use, because the modules of the bar take time to import.
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn(self._name),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task(step_name, total=len(self._STEPS) - 1)
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0], description=step_name, completed=step_index
        )
        if is_last:
            self.close()

    def close(self) -> None:
        """End the bar, if there is one. May be called repeatedly."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _local_path(source: str) -> Path | None:
    """Return the local file or folder with this name, or None."""
    path = Path(source).expanduser()
    return path if path.exists() else None


async def _fetch_packages(
    yard: "Modelyard", source: str, version: str, by: Installer
) -> list[bytes]:
    """Return the packages of a source: a local path, a URL, a GitHub file, or a plugin
    of a market."""
    # Looked up first, so that a market's plugin never hides a local folder.
    path = _local_path(source)
    if path is not None:
        if path.suffix == ".difybndl":
            data = await asyncio.to_thread(path.read_bytes)
            return [
                bundled_package.data
                for bundled_package in (
                    await yard.services.plugins.packages.upload_bundle(data, by)
                )
            ]
        return [(await asyncio.to_thread(load_package, path)).data]
    # `owner/repo:VERSION/file.difypkg` names a release file on GitHub.
    if source.startswith(("http://", "https://")) or (
        source.endswith(".difypkg") and ":" in source
    ):
        # The operator runs this command, so an address given here may be private.
        return [await yard.services.plugins.market.github(source, is_operators=True)]
    # A missing file must not be looked up in a market.
    if source.endswith((".difypkg", ".difybndl")):
        raise PackageError(f"File {source!r} does not exist")
    return [await yard.services.plugins.market.fetch(source, version)]


@plugin.command("list")
@tenant_option
@json_option
@click.pass_context
def list_plugins(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List a tenant's plugins."""

    async def work(yard: "Modelyard") -> Sequence["Installed"]:
        """Return the tenant's plugins."""
        return yard.services.plugins.plugins.installed(tenant)

    installed_plugins = run_with_modelyard(ctx, work)
    if as_json:
        print_json(
            [
                {
                    "id": installed_plugin.id,
                    "plugin": installed_plugin.plugin_id,
                    "version": installed_plugin.declaration.manifest.version,
                    "identifier": installed_plugin.identifier,
                    "category": installed_plugin.declaration.manifest.category,
                    "source": installed_plugin.installation.source,
                    "provider": installed_plugin.installation.provider or None,
                    "permissions": installed_plugin.permissions.allowed_names(),
                }
                for installed_plugin in installed_plugins
            ]
        )
        return
    columns = ("plugin", "version", "category", "offers", "permissions", "source")
    print_table(
        "",
        columns,
        [
            (
                installed_plugin.plugin_id,
                installed_plugin.declaration.manifest.version,
                installed_plugin.declaration.manifest.category,
                ", ".join(installed_plugin.declaration.providers) or "-",
                ", ".join(installed_plugin.permissions.allowed_names()) or "-",
                installed_plugin.installation.source,
            )
            for installed_plugin in installed_plugins
        ],
    )


@plugin.command()
@click.argument("name")
@click.argument("source")
@_unsigned_option
@tenant_option
@click.pass_context
def upgrade(
    ctx: click.Context, name: str, source: str, unsigned: bool, tenant: str
) -> None:
    """Upgrade the plugin NAME. SOURCE is a file, a folder, or a version from a market,
    for example 0.0.2."""
    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def replace_version(yard: "Modelyard") -> "Installed":
        """Fetch the package and install it over the old version."""
        old = yard.services.plugins.plugins.find(tenant, name)
        # A local path takes precedence over a version number.
        is_version = _local_path(source) is None and source[0].isdigit()
        (data,) = (
            [await yard.services.plugins.market.fetch(name, source)]
            if is_version
            else await _fetch_packages(yard, source, "", by)
        )
        packed, _ = await yard.services.plugins.packages.upload(data, by)
        # Another plugin would inherit the old one's data and permissions.
        if packed.manifest.id != old.plugin_id:
            raise PackageError(
                f"{source!r} contains plugin {packed.manifest.id!r}, not a version of"
                f" {old.plugin_id!r}"
            )
        with closing(_Progress(name)) as step:
            # A version that does not start must not replace one that works.
            return await yard.services.plugins.installations.add(
                tenant, packed, step=step, checks_start=True
            )

    upgraded_plugin = run_with_modelyard(ctx, replace_version)
    print_note(f"upgraded {name} to {upgraded_plugin.declaration.manifest.version}")
    # A new version gets no more than the old one had.
    print_refused(upgraded_plugin, f"modelyard plugin permission {name}")


@plugin.command()
@click.argument("name")
@tenant_option
@click.pass_context
def uninstall(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove a plugin and its data."""
    run_with_modelyard(
        ctx, lambda yard: yard.services.plugins.installations.uninstall(tenant, name)
    )
    print_note(f"removed {name}")


# ------------------------------------------------------ endpoints, markets


@plugin.group()
def endpoint() -> None:
    """Manage the HTTP endpoints that plugins serve."""


@endpoint.command("add")
@click.argument("name")
@assignments_option(
    "--set",
    "fields",
    help="Setting of the endpoint; repeatable.",
)
@click.option(
    "--label", default="endpoint", show_default=True, help="Name of the endpoint."
)
@tenant_option
@click.pass_context
def add_endpoint(
    ctx: click.Context,
    name: str,
    fields: Sequence[tuple[str, str]],
    label: str,
    tenant: str,
) -> None:
    """Create an endpoint of the plugin NAME and print its URL."""

    async def work(yard: "Modelyard") -> str:
        """Create the endpoint and return its address."""
        endpoint_id = await yard.services.plugins.endpoints.set_up(
            tenant, name, label, dict(fields)
        )
        return f"{yard.services.addresses.content()}/e/{endpoint_id}"

    click.echo(run_with_modelyard(ctx, work))


@endpoint.command("list")
@tenant_option
@click.pass_context
def list_endpoints(ctx: click.Context, tenant: str) -> None:
    """List a tenant's endpoints."""

    async def work(yard: "Modelyard") -> Any:
        """Return (address, name, endpoint) rows."""
        endpoints = yard.services.plugins.endpoints.all(tenant)
        return [
            (f"{yard.services.addresses.content()}/e/{row}", name, endpoint)
            for row, name, endpoint in endpoints
        ]

    rows = run_with_modelyard(ctx, work)
    print_table(
        "",
        ("address", "name", "plugin"),
        [(address, name, endpoint.plugin) for address, name, endpoint in rows],
    )


@endpoint.command("remove")
@click.argument("endpoint_id")
@tenant_option
@click.pass_context
def remove_endpoint(ctx: click.Context, endpoint_id: str, tenant: str) -> None:
    """Remove an endpoint. ENDPOINT_ID is its id or its URL."""
    # The list shows URLs and not ids, so a copied URL must work too.
    name = endpoint_id.rpartition("/")[2]
    run_with_modelyard(
        ctx, lambda yard: yard.services.plugins.endpoints.remove(tenant, name)
    )
    print_note(f"removed {name}")


@plugin.group()
def market() -> None:
    """Search plugin markets (plugins.markets in the settings) and add packages to a
    local one."""


@market.command("search")
@click.argument("words", nargs=-1)
@json_option
@click.pass_context
def search_market(ctx: click.Context, words: Sequence[str], as_json: bool) -> None:
    """Search plugins; all WORDS must match. Lists all without WORDS."""
    listings = run_with_modelyard(
        ctx, lambda yard: yard.services.plugins.market.search(" ".join(words))
    )
    if as_json:
        print_json(
            [
                {"place": market_location, **msgspec.to_builtins(listing)}
                for market_location, listing in listings
            ]
        )
        return
    print_table(
        "",
        ("plugin", "version", "category", "description"),
        [
            (
                listing.plugin,
                listing.version,
                listing.category,
                listing.description or listing.label,
            )
            for _, listing in listings
        ],
    )


@market.command("add")
@click.argument("folder", type=_PATH)
@click.argument("packages", type=_PATH, nargs=-1, required=True)
def add_to_market(folder: Path, packages: Sequence[Path]) -> None:
    """Add PACKAGES (files or plugin folders) to the local market in FOLDER and update
    its index."""
    for path in packages:
        listed = add_to_folder(folder, path)
        click.echo(f"{listed.identifier}")
