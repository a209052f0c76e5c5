"""`modelyard plugin`: create, test, debug, package, sign and install plugins."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
import msgspec

from modelyard.base.errors import ConfigError, ModelyardError, PackageError
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
from modelyard.tenant_plugins.packages import Installer

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.tenant_plugins.plugins import Installed


_PATH = click.Path(path_type=Path)
_MB = 1 << 20
_unsigned_option = click.option(
    "--unsigned",
    is_flag=True,
    help=(
        "Trust it although nobody trusted signed it; needed where there are several"
        " tenants."
    ),
)


@click.group()
def plugin() -> None:
    """Plugins: make one, try it, debug it, pack and sign it, install it."""


# ------------------------------------------------------------ create and package


@plugin.command()
@click.argument("folder", type=_PATH, required=False)
@click.option("--name", help="a-z, 0-9, _ and -.")
@click.option("--author", help="Who makes it.")
@click.option("--description", help="What it does, in a sentence.")
@click.option("--category", type=click.Choice(list(CATEGORIES)), help="What it is.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="What it may ask for.",
)
@click.option(
    "--storage-size",
    type=int,
    default=1_048_576,
    show_default=True,
    help="Bytes that it may keep.",
)
@click.option("--quick", is_flag=True, help="Ask nothing.")
def init(
    folder: Path | None,
    quick: bool,
    permissions: tuple[str, ...],
    storage_size: int,
    **options: str | None,
) -> None:
    """Create a plugin project that runs at once. Prompts for missing options at a
    terminal."""
    folder_name = folder.name if folder else ""
    is_interactive = not quick and sys.stdin.isatty()
    name = options["name"] or (
        click.prompt("Name", default=folder_name or None)
        if is_interactive
        else folder_name
    )
    author = options["author"] or (
        click.prompt("Author", default=os.environ.get("USER", "me"))
        if is_interactive
        else "me"
    )
    description = options["description"] or (
        click.prompt("What it does", default="") if is_interactive else ""
    )
    kinds = click.Choice(list(CATEGORIES))
    category = options["category"] or (
        click.prompt("What it is", type=kinds, default="tool") if is_interactive else ""
    )
    if not name or not category:
        raise click.UsageError(
            "--name and --category must be said where nobody can be asked"
        )
    # Permissions given as options are complete; there are no further questions.
    if is_interactive and not permissions:
        permissions = tuple(
            permission_name
            for permission_name in PERMISSIONS
            if click.confirm(f"May it ask for {permission_name}?", default=False)
        )
    answers = ScaffoldOptions(
        name=name,
        author=author,
        category=category,
        description=description,
        permissions=permissions,
        storage_size=storage_size,
    )
    target = folder or Path(name)
    for path in create(target, answers):
        click.echo(path)
    print_note(
        f"try it with `modelyard plugin test {target}`, install it with `modelyard"
        f" plugin install {target}`"
    )


@plugin.command()
@click.argument("folder", type=_PATH)
@click.option(
    "-o", "--output", type=_PATH, help="The package's file.  [NAME-VERSION.difypkg]"
)
@click.option(
    "--max-size",
    type=int,
    default=MAX_BYTES // _MB,
    show_default=True,
    help="Megabytes.",
)
def package(folder: Path, output: Path | None, max_size: int) -> None:
    """Package a plugin's folder into one file. Files named in .difyignore or .gitignore
    are left out."""
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
    """Print the checksum of a package, or of the package that a folder would give."""
    # A folder's checksum is computed over the files that would be packaged.
    click.echo(
        checksum(folder_files(path)) if path.is_dir() else load_package(path).checksum
    )


@plugin.command()
@click.argument("name", type=_PATH)
def keygen(name: Path) -> None:
    """Generate a key pair: NAME.private.pem signs, NAME.public.pem verifies."""
    private, public = generate_keys()
    for key_type, data, mode in (
        ("private", private, 0o600),
        ("public", public, 0o644),
    ):
        path = name.with_name(f"{name.name}.{key_type}.pem")
        # Overwriting a key would make packages signed with it unverifiable.
        if path.exists():
            raise ConfigError(
                f"{str(path)!r} is there already; a key is not written over"
            )
        save(path, data)
        # The private key is readable by its owner only.
        path.chmod(mode)
        click.echo(path)


@plugin.command("sign")
@click.argument("path", type=_PATH)
@click.option("--key", "key", type=_PATH, required=True, help="NAME.private.pem.")
@click.option(
    "--category",
    type=click.Choice(SIGNERS),
    default="community",
    show_default=True,
    help="Who signs.",
)
@click.option(
    "-o", "--output", type=_PATH, help="The signed package.  [NAME.signed.difypkg]"
)
def sign_package(path: Path, key: Path, category: str, output: Path | None) -> None:
    """Sign a package and write the signed copy to a new file."""
    data = load_package(path).data
    try:
        private = key.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"key {str(key)!r} cannot be read: {error.strerror}"
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
    help="NAME.public.pem; else those of plugins.public_keys.",
)
@json_option
@click.pass_context
def verify_package(
    ctx: click.Context, path: Path, keys: tuple[Path, ...], as_json: bool
) -> None:
    """Print who signed a package. Exits with 1 if it is not signed by a trusted key or
    was changed."""
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
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(signature.signed_at))
    click.echo(f"signed with {signature.key} on {when}, category {signature.category}")


# ------------------------------------------------------------ test and debug


async def _install_for_test(yard: "Modelyard", path: Path) -> Package:
    """Install the plugin on this machine without adding it to a tenant."""
    packed = await asyncio.to_thread(load_package, path)
    with closing(_Progress(packed.manifest.id)) as step:
        await yard.services.plugins.host.packages.install(packed, step)
    return packed


@plugin.command()
@click.argument("path", type=_PATH)
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the credentials.",
)
@json_option
@click.pass_context
def test(
    ctx: click.Context, path: Path, credentials: Sequence[str], as_json: bool
) -> None:
    """Test a plugin: load, start, call, stream, stop, and error mapping. Exits with 1
    if a check fails."""
    from modelyard.plugins.conformance import Finding, run_checks

    async def work(yard: "Modelyard") -> list[Finding]:
        """Install the plugin, run the checks, and remove it again."""
        packed = await _install_for_test(yard, path)
        identifier = str(packed.identifier)
        try:
            return await run_checks(
                yard.services.plugins.host.packages.declaration(identifier),
                lambda call: yard.services.plugins.host.call(identifier, call),
                _parse_assignments(credentials),
            )
        finally:
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
            True: success_text("good"),
            False: failure_text("wrong"),
            None: "not tried",
        }
        print_table(
            "",
            ("", "what", "detail"),
            [
                (states[finding.has_passed], finding.check_name, finding.detail)
                for finding in findings
            ],
        )
    if any(finding.has_passed is False for finding in findings):
        ctx.exit(1)


def _parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Parse NAME=VALUE options. Raises click.UsageError."""
    pairs = [assignment.partition("=") for assignment in assignments]
    if invalid_name := next(
        (name for name, separator, _ in pairs if not separator), None
    ):
        raise click.UsageError(f"--credential wants NAME=VALUE, not {invalid_name!r}")
    return {name: value for name, _, value in pairs}


@plugin.command()
@click.argument("path", type=_PATH)
@click.pass_context
def run(ctx: click.Context, path: Path) -> None:
    """Run a plugin and talk to it: a line of JSON in is a request, lines of JSON out
    are its responses.

    Request: {"invoke_id": "1", "type": "tool", "action": "invoke_tool", "request":
    {...}}
    """

    async def work(yard: "Modelyard") -> None:
        """Serve requests from standard input until it is closed."""
        packed = await _install_for_test(yard, path)
        identifier, permissions = str(packed.identifier), packed.manifest.permissions

        async def answer(request: JSON) -> None:
            """Run one request and print its responses, its end or its error."""
            name = request.get("invoke_id")
            call = PluginCall(
                tenant="default",
                plugin=packed.manifest.id,
                permissions=permissions,
                user="cli",
                type=str(request.get("type")),
                action=str(request.get("action")),
                data=request.get("request") or {},
            )
            try:
                async with aclosing(
                    yard.services.plugins.host.call(identifier, call)
                ) as answers:
                    async for message in answers:
                        _print_message(name, "plugin_response", message)
                _print_message(name, "plugin_invoke_end", {})
            except ModelyardError as error:
                _print_message(
                    name,
                    "error",
                    {"error": str(error), "kind": getattr(error, "kind", "")},
                )

        _print_message(None, "plugin_ready", {"plugin": identifier})
        # The event loop holds tasks only weakly; the set keeps them alive.
        tasks: set[asyncio.Task[None]] = set()
        async for line in _lines():
            try:
                request = json.loads(line)
                task = asyncio.create_task(answer(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            except (ValueError, AttributeError) as error:
                _print_message(None, "error", {"error": f"this is no request: {error}"})
        # Standard input is closed: let running requests finish.
        if tasks:
            await asyncio.wait(tasks)
        await yard.services.plugins.installations.delete_unused_packages(identifier)

    run_with_modelyard(ctx, work)


def _print_message(name: Any, message_type: str, response: Any) -> None:
    """Print one message as a line of JSON."""
    click.echo(
        msgspec.json.encode(
            {"invoke_id": name, "type": message_type, "response": response}
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
    help="Run it too, in an environment made for it.",
)
@tenant_option
@click.pass_context
def debug(ctx: click.Context, folder: Path, tenant: str, start: bool) -> None:
    """Connect the plugin in a folder to the running server. Its models and tools are
    available while it runs.

    Writes .env, with which `python -m main` connects too.
    """
    settings = settings_of(ctx)

    async def work(yard: "Modelyard") -> tuple[str, str]:
        """Return the tenant's debugging key, and the Python of the plugin's environment
        if it is to be started."""
        packed = await asyncio.to_thread(package_folder, folder)
        key = yard.services.plugins.debugged.key(tenant)
        if not start:
            return key, ""
        print_note(f"{packed.manifest.id}: making its environment")
        environment = await yard.services.plugins.host.environments.prepare(
            folder, name=packed.manifest.id
        )
        return key, str(environment.python)

    key, python = run_with_modelyard(ctx, work)
    # A server that listens on all interfaces is reached by the loopback address.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
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
            "run it with `python -m main` in its folder, in an environment that has"
            " dify_plugin"
        )
        return
    print_note(
        "it runs until Ctrl-C; edit its files and start it again to see what changed"
    )
    # The plugin replaces this process, so that Ctrl-C and the terminal are its own.
    os.chdir(folder)
    os.execve(python, [python, "-m", "main"], {**os.environ, **variables})  # noqa: S606


# ------------------------------------------------------------ install


@plugin.command()
@click.argument("what", nargs=-1, required=True)
@click.option(
    "--version",
    "version",
    default="",
    help="From a market: this version; the newest where nothing is said.",
)
@click.option(
    "--verify", "must", is_flag=True, help="Refuse what nobody trusted has signed."
)
@_unsigned_option
@click.option(
    "--grant",
    "granted",
    multiple=True,
    help="Allow no more than this of what it asks for.",
)
@tenant_option
@json_option
@click.pass_context
def install(
    ctx: click.Context,
    what: Sequence[str],
    version: str,
    must: bool,
    unsigned: bool,
    granted: Sequence[str],
    tenant: str,
    as_json: bool,
) -> None:
    """Install plugins: files, folders, bundles, URLs, owner/repo:VERSION/file on
    GitHub, or author/name from a market."""

    # Whoever runs the command line has the operator's rights.
    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def work(yard: "Modelyard") -> list["Installed"]:
        """Upload and install each package; a bundle may contain several."""
        installed_plugins: list[Installed] = []
        for source in what:
            for data in await _fetch_packages(yard, source, version, by):
                packed, _ = await yard.services.plugins.packages.upload(
                    data, by, verify_signature=must
                )
                # None grants everything that the plugin asks for; a list restricts it.
                grant = list(granted) if granted else None
                with closing(_Progress(packed.manifest.id)) as step:
                    installed_plugins.append(
                        await yard.services.plugins.installations.add(
                            tenant, packed, granted=grant, step=step
                        )
                    )
        return installed_plugins

    installed_plugins = run_with_modelyard(ctx, work)
    if as_json:
        print_json(
            [
                {"id": installed_plugin.id, "identifier": installed_plugin.identifier}
                for installed_plugin in installed_plugins
            ]
        )
        return
    for installed_plugin in installed_plugins:
        offers = (
            [
                f"{installed_plugin.installation.provider}/{model.model}"
                for model in installed_plugin.declaration.model.entity.models
            ]
            if installed_plugin.declaration.model
            else installed_plugin.declaration.providers
        )
        click.echo(
            f"{installed_plugin.plugin_id}"
            f" {installed_plugin.declaration.manifest.version}: {', '.join(offers[:6])}"
        )
        if permission_labels := installed_plugin.permissions.allowed_names():
            print_note(
                f"it may ask for {', '.join(permission_labels)}; `modelyard plugin"
                f" permission {installed_plugin.plugin_id} --grant …` for less"
            )


class _Progress:
    """Progress of one installation: a bar at a terminal, otherwise one line per step."""

    _STEPS: ClassVar[Sequence[str]] = (
        "waiting",
        "unpacking",
        "installing dependencies",
        "installed",
    )

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = time.monotonic()
        self._bar: Any = None

    def __call__(self, step_name: str) -> None:
        """Report the step that starts now."""
        # An unknown step is shown at the beginning of the bar.
        step_index = self._STEPS.index(step_name) if step_name in self._STEPS else 0
        is_last = step_index == len(self._STEPS) - 1
        if not sys.stderr.isatty():
            print_note(
                f"{self._name}: {step_name} ({time.monotonic() - self._begun:.1f} s)"
                if is_last
                else f"{self._name}: {step_name} …"
            )
            return
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
        self._bar.update(0, description=step_name, completed=step_index)
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
        return [await yard.services.plugins.market.github(source, is_operators=True)]
    # A missing file must not be looked up in a market.
    if source.endswith((".difypkg", ".difybndl")):
        raise PackageError(f"file {source!r} does not exist")
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
    columns = ("plugin", "version", "kind", "offers", "may ask for", "from")
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
@click.argument("what")
@_unsigned_option
@tenant_option
@click.pass_context
def upgrade(
    ctx: click.Context, name: str, what: str, unsigned: bool, tenant: str
) -> None:
    """Replace an installed plugin by another version. WHAT is a file, a folder, or a
    version in a market."""
    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def work(yard: "Modelyard") -> "Installed":
        """Fetch the package and install it over the old version."""
        old = yard.services.plugins.plugins.find(tenant, name)
        # A local path takes precedence over a version number.
        is_version = _local_path(what) is None and what[0].isdigit()
        (data,) = (
            [await yard.services.plugins.market.fetch(name, what)]
            if is_version
            else await _fetch_packages(yard, what, "", by)
        )
        packed, _ = await yard.services.plugins.packages.upload(data, by)
        # Another plugin would inherit the old one's data and permissions.
        if packed.manifest.id != old.plugin_id:
            raise PackageError(
                f"{packed.manifest.id!r} is no version of {old.plugin_id!r}"
            )
        with closing(_Progress(name)) as step:
            return await yard.services.plugins.installations.add(
                tenant, packed, step=step
            )

    upgraded_plugin = run_with_modelyard(ctx, work)
    print_note(f"{name} is at {upgraded_plugin.declaration.manifest.version}")


@plugin.command()
@click.argument("name")
@tenant_option
@click.pass_context
def uninstall(ctx: click.Context, name: str, tenant: str) -> None:
    """Uninstall a plugin and delete its stored data."""
    run_with_modelyard(
        ctx, lambda yard: yard.services.plugins.installations.uninstall(tenant, name)
    )
    print_note(f"{name} is gone")


@plugin.command()
@click.argument("name")
@click.option(
    "--grant",
    "granted",
    multiple=True,
    help="Allow this, and nothing that is not named.",
)
@click.option("--all", "everything", is_flag=True, help="Allow all that it asks for.")
@click.option("--none", "nothing", is_flag=True, help="Allow nothing.")
@tenant_option
@json_option
@click.pass_context
def permission(
    ctx: click.Context,
    name: str,
    granted: Sequence[str],
    everything: bool,
    nothing: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Show what a plugin asks for and what it is granted; with options, change that."""
    # None grants all requested permissions; an empty list grants none.
    granted_permissions = None if everything else list(granted)

    async def work(yard: "Modelyard") -> "Installed":
        """Change the permissions if an option asks for it, and return the plugin."""
        if granted or everything or nothing:
            return await yard.services.plugins.installations.grant(
                tenant, name, granted_permissions
            )
        return yard.services.plugins.plugins.find(tenant, name)

    installed_plugin = run_with_modelyard(ctx, work)
    requested_permissions, allowed = (
        installed_plugin.declaration.manifest.permissions.allowed_names(),
        installed_plugin.permissions.allowed_names(),
    )
    if as_json:
        print_json({"asks": requested_permissions, "granted": allowed})
        return
    states = [
        (
            permission_label,
            (
                success_text("granted")
                if permission_label in allowed
                else failure_text("refused")
            ),
        )
        for permission_label in requested_permissions
    ]
    print_table("", ("asks for", ""), states)


# ---------------------------------------- credentials, endpoints, markets


@plugin.group()
def credential() -> None:
    """Credentials with which tools and data sources are called."""


@credential.command("add")
@click.argument("provider")
@click.option(
    "--set", "given", multiple=True, metavar="NAME=VALUE", help="A field of its form."
)
@click.option("--label", default="default", show_default=True)
@tenant_option
@click.pass_context
def add_credential(
    ctx: click.Context, provider: str, given: Sequence[str], label: str, tenant: str
) -> None:
    """Validate a credential with its plugin and store it encrypted. PROVIDER is
    author/plugin/provider."""

    async def work(yard: "Modelyard") -> str:
        """Store the credential and return its id."""
        return await yard.services.plugins.credentials.add(
            tenant, provider, label, _parse_assignments(given)
        )

    click.echo(run_with_modelyard(ctx, work))


@credential.command("client")
@click.argument("provider")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the client's form.",
)
@tenant_option
@click.pass_context
def set_client(
    ctx: click.Context, provider: str, given: Sequence[str], tenant: str
) -> None:
    """Store the OAuth client for PROVIDER and print the redirect URI to register with
    it."""

    async def work(yard: "Modelyard") -> str:
        """Store the client and return the redirect URI."""
        await yard.services.plugins.credentials.set_client(
            tenant, provider, _parse_assignments(given)
        )
        return f"{yard.services.addresses.server()}/oauth/callback/{provider}"

    click.echo(run_with_modelyard(ctx, work))


@credential.command("connect")
@click.argument("provider")
@click.option(
    "--user", default="", help="For this user alone; else for all of the tenant's."
)
@click.option("--label", default="default", show_default=True)
@tenant_option
@click.pass_context
def connect(
    ctx: click.Context, provider: str, user: str, label: str, tenant: str
) -> None:
    """Print an address that a browser opens to authorise tools on PROVIDER. It is valid
    for 15 minutes."""

    async def work(yard: "Modelyard") -> str:
        """Return the address with a signed ticket."""
        ticket = yard.services.plugins.credentials.ticket(tenant, provider, label, user)
        return f"{yard.services.addresses.server()}/oauth/begin/{ticket}"

    click.echo(run_with_modelyard(ctx, work))


@credential.command("remove")
@click.argument("credential_id")
@tenant_option
@click.pass_context
def remove_credential(ctx: click.Context, credential_id: str, tenant: str) -> None:
    """Delete a credential."""
    run_with_modelyard(
        ctx,
        lambda yard: yard.services.plugins.rows.remove(
            tenant, "tool_credential", credential_id
        ),
    )
    print_note(f"{credential_id} is gone")


@plugin.group()
def endpoint() -> None:
    """Manage the HTTP endpoints that plugins serve."""


@endpoint.command("add")
@click.argument("name")
@click.option(
    "--set", "given", multiple=True, metavar="NAME=VALUE", help="One of its settings."
)
@click.option("--label", default="endpoint", show_default=True)
@tenant_option
@click.pass_context
def add_endpoint(
    ctx: click.Context, name: str, given: Sequence[str], label: str, tenant: str
) -> None:
    """Create an endpoint of a plugin and print its address."""

    async def work(yard: "Modelyard") -> str:
        """Create the endpoint and return its address."""
        endpoint_id = await yard.services.plugins.endpoints.set_up(
            tenant, name, label, _parse_assignments(given)
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
        [(where, name, endpoint.plugin) for where, name, endpoint in rows],
    )


@endpoint.command("remove")
@click.argument("endpoint_id")
@tenant_option
@click.pass_context
def remove_endpoint(ctx: click.Context, endpoint_id: str, tenant: str) -> None:
    """Delete an endpoint, given its id or its address."""
    name = endpoint_id.rpartition("/")[2]
    run_with_modelyard(
        ctx, lambda yard: yard.services.plugins.endpoints.remove(tenant, name)
    )
    print_note(f"{name} is gone")


@plugin.group()
def market() -> None:
    """Manage plugin markets (plugins.markets in the settings)."""


@market.command("search")
@click.argument("words", nargs=-1)
@json_option
@click.pass_context
def search_market(ctx: click.Context, words: Sequence[str], as_json: bool) -> None:
    """Search the markets for plugins that match all WORDS; without WORDS, list all."""
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
        ("plugin", "version", "kind", "what it does"),
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
    """Add packages or plugin folders to a market in a folder and update its index."""
    for path in packages:
        listed = add_to_folder(folder, path)
        click.echo(f"{listed.identifier}")
