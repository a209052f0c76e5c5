"""`modelyard plugin`: make, try, debug, pack, sign and install plugins."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, ClassVar

import click
import msgspec

from modelyard.base.errors import ConfigError, ModelyardError, PackageError
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard, settings_of
from modelyard.cli.usage import tenant_option
from modelyard.models.types import JSON
from modelyard.plugins.conversation import PluginCall
from modelyard.plugins.market import add_to_folder
from modelyard.plugins.package import MAX_BYTES, Package, checksum, folder_files, load_package, package_folder, save
from modelyard.plugins.scaffold import CATEGORIES, PERMISSIONS, Answers, create
from modelyard.plugins.signature import CATEGORIES as SIGNERS
from modelyard.plugins.signature import generate_keys, read_keys, sign, verify
from modelyard.tenant_plugins.packages import Installer

_PATH = click.Path(path_type=Path)
_MB = 1 << 20
_unsigned_option = click.option(
    "--unsigned",
    is_flag=True,
    help="Trust it although nobody trusted signed it; needed where there are several tenants.",
)


@click.group()
def plugin() -> None:
    """Plugins: make one, try it, debug it, pack and sign it, install it."""


# ------------------------------------------------------------------------------------------------ making


@plugin.command()
@click.argument("folder", type=_PATH, required=False)
@click.option("--name", help="a-z, 0-9, _ and -.")
@click.option("--author", help="Who makes it.")
@click.option("--description", help="What it does, in a sentence.")
@click.option("--category", type=click.Choice(list(CATEGORIES)), help="What it is.")
@click.option("--permission", "permissions", multiple=True, type=click.Choice(PERMISSIONS), help="What it may ask for.")
@click.option("--storage-size", type=int, default=1_048_576, show_default=True, help="Bytes that it may keep.")
@click.option("--quick", is_flag=True, help="Ask nothing.")
def init(
    folder: Path | None, quick: bool, permissions: tuple[str, ...], storage_size: int, **given: str | None
) -> None:
    """Make a plugin that runs at once. Asks for what is not said."""
    named = folder.name if folder else ""
    asks = not quick and sys.stdin.isatty()
    name = given["name"] or (click.prompt("Name", default=named or None) if asks else named)
    author = given["author"] or (click.prompt("Author", default=os.environ.get("USER", "me")) if asks else "me")
    about = given["description"] or (click.prompt("What it does", default="") if asks else "")
    kinds = click.Choice(list(CATEGORIES))
    category = given["category"] or (click.prompt("What it is", type=kinds, default="tool") if asks else "")
    if not name or not category:
        raise click.UsageError("--name and --category must be said where nobody can be asked")
    if asks and not permissions:
        permissions = tuple(word for word in PERMISSIONS if click.confirm(f"May it ask for {word}?", default=False))
    answers = Answers(
        name=name, author=author, category=category, description=about, permissions=permissions,
        storage_size=storage_size,
    )  # fmt: skip
    target = folder or Path(name)
    for path in create(target, answers):
        click.echo(path)
    note(f"try it with `modelyard plugin test {target}`, install it with `modelyard plugin install {target}`")


@plugin.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--output", type=_PATH, help="The package's file.  [NAME-VERSION.difypkg]")
@click.option("--max-size", type=int, default=MAX_BYTES // _MB, show_default=True, help="Megabytes.")
def package(folder: Path, output: Path | None, max_size: int) -> None:
    """Pack a plugin's folder into one file. What .difyignore or .gitignore names is left out."""
    packed = package_folder(folder, most=max_size * _MB)
    target = output or Path(f"{packed.manifest.name}-{packed.manifest.version}.difypkg")
    save(target, packed.data)
    click.echo(target)
    note(f"{packed.identifier}, {len(packed.files)} files, {len(packed.data):,} bytes")


@plugin.command("checksum")
@click.argument("path", type=_PATH)
def show_checksum(path: Path) -> None:
    """The checksum of a package, or of what a folder would be packed to."""
    click.echo(checksum(folder_files(path)) if path.is_dir() else load_package(path).checksum)


@plugin.command()
@click.argument("name", type=_PATH)
def keygen(name: Path) -> None:
    """Make a pair of keys: NAME.private.pem signs, NAME.public.pem is for those who verify."""
    private, public = generate_keys()
    for kind, data, mode in (("private", private, 0o600), ("public", public, 0o644)):
        path = name.with_name(f"{name.name}.{kind}.pem")
        if path.exists():
            raise ConfigError(f"{str(path)!r} is there already; a key is not written over")
        save(path, data)
        path.chmod(mode)
        click.echo(path)


@plugin.command("sign")
@click.argument("path", type=_PATH)
@click.option("--key", "key", type=_PATH, required=True, help="NAME.private.pem.")
@click.option("--category", type=click.Choice(SIGNERS), default="community", show_default=True, help="Who signs.")
@click.option("-o", "--output", type=_PATH, help="The signed package.  [NAME.signed.difypkg]")
def sign_package(path: Path, key: Path, category: str, output: Path | None) -> None:
    """Sign a package."""
    data = load_package(path).data
    try:
        private = key.read_bytes()
    except OSError as error:
        raise ConfigError(f"key {str(key)!r} cannot be read: {error.strerror}") from error
    target = output or path.with_name(f"{path.stem}.signed.difypkg")
    save(target, sign(data, private, category=category, now=int(time.time())))
    click.echo(target)


@plugin.command("verify")
@click.argument("path", type=_PATH)
@click.option("--key", "keys", type=_PATH, multiple=True, help="NAME.public.pem; else those of plugins.public_keys.")
@json_option
@click.pass_context
def verify_package(ctx: click.Context, path: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Say who signed a package; exit 1 where nobody did, or it was changed since."""
    named = [Path(one).expanduser() for one in settings_of(ctx).plugins.public_keys]
    found = verify(load_package(path).data, read_keys(keys or named))
    if as_json:
        print_json({"key": found.key, "category": found.category, "signed_at": found.signed_at})
        return
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.signed_at))
    click.echo(f"signed with {found.key} on {when}, category {found.category}")


# ------------------------------------------------------------------------------------------------ trying


async def _ready(yard: Any, path: Path) -> Package:
    """The plugin, installed on this machine for nobody."""
    packed = await asyncio.to_thread(load_package, path)
    with closing(_Progress(packed.manifest.id)) as step:
        await yard.services.plugins.host.packages.install(packed, step)
    return packed


@plugin.command()
@click.argument("path", type=_PATH)
@click.option("--credential", "credentials", multiple=True, metavar="NAME=VALUE", help="A field of the credentials.")
@json_option
@click.pass_context
def test(ctx: click.Context, path: Path, credentials: Sequence[str], as_json: bool) -> None:
    """Try a plugin: it loads, starts, answers, streams, stops, and maps its errors. Exit 1 where something is wrong."""
    from modelyard.plugins.conformity import Finding, examine

    async def work(yard: Any) -> list[Finding]:
        packed = await _ready(yard, path)
        identifier = str(packed.identifier)
        try:
            return await examine(
                yard.services.plugins.host.packages.declaration(identifier),
                lambda call: yard.services.plugins.host.call(identifier, call),
                _pairs(credentials),
            )
        finally:
            await yard.services.plugins.installations.drop_unused(identifier)

    findings = run_with_yard(ctx, work)
    if as_json:
        print_json([one._asdict() for one in findings])
    else:
        states = {True: good("good"), False: bad("wrong"), None: "not tried"}
        print_table("", ("", "what", "detail"), [(states[one.is_good], one.what, one.detail) for one in findings])
    if any(one.is_good is False for one in findings):
        ctx.exit(1)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if wrong := next((name for name, sign, _ in pairs if not sign), None):
        raise click.UsageError(f"--credential wants NAME=VALUE, not {wrong!r}")
    return {name: value for name, _, value in pairs}


@plugin.command()
@click.argument("path", type=_PATH)
@click.pass_context
def run(ctx: click.Context, path: Path) -> None:
    """Run a plugin and speak with it: a line of JSON in is a request, lines of JSON out are its answers.

    In: {"invoke_id": "1", "type": "tool", "action": "invoke_tool", "request": {...}}
    """

    async def work(yard: Any) -> None:
        packed = await _ready(yard, path)
        identifier, permissions = str(packed.identifier), packed.manifest.permissions

        async def answer(asked: JSON) -> None:
            name = asked.get("invoke_id")
            call = PluginCall(
                tenant="default", plugin=packed.manifest.id, permissions=permissions, user="cli",
                type=str(asked.get("type")), action=str(asked.get("action")), data=asked.get("request") or {},
            )  # fmt: skip
            try:
                async with aclosing(yard.services.plugins.host.call(identifier, call)) as answers:
                    async for one in answers:
                        _line(name, "plugin_response", one)
                _line(name, "plugin_invoke_end", {})
            except ModelyardError as error:
                _line(name, "error", {"error": str(error), "kind": getattr(error, "kind", "")})

        _line(None, "plugin_ready", {"plugin": identifier})
        tasks: set[asyncio.Task[None]] = set()
        async for line in _lines():
            try:
                asked = json.loads(line)
                task = asyncio.create_task(answer(asked))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            except (ValueError, AttributeError) as error:
                _line(None, "error", {"error": f"this is no request: {error}"})
        if tasks:
            await asyncio.wait(tasks)
        await yard.services.plugins.installations.drop_unused(identifier)

    run_with_yard(ctx, work)


def _line(name: Any, kind: str, response: Any) -> None:
    click.echo(msgspec.json.encode({"invoke_id": name, "type": kind, "response": response}).decode())


async def _lines() -> AsyncGenerator[str, None]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            yield line


@plugin.command()
@click.argument("folder", type=_PATH, default=Path())
@click.option("--start/--no-start", default=True, help="Run it too, in an environment made for it.")
@tenant_option
@click.pass_context
def debug(ctx: click.Context, folder: Path, tenant: str, start: bool) -> None:
    """Connect the plugin in a folder to the running server: its models and tools are there while it runs.

    Writes .env, with which `python -m main` connects too.
    """
    settings = settings_of(ctx)

    async def work(yard: Any) -> tuple[str, str]:
        packed = await asyncio.to_thread(package_folder, folder)
        key = yard.services.plugins.debugged.key(tenant)
        if not start:
            return key, ""
        note(f"{packed.manifest.id}: making its environment")
        environment = await yard.services.plugins.host.environments.prepare(folder, name=packed.manifest.id)
        return key, str(environment.python)

    key, python = run_with_yard(ctx, work)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104  compared, not bound
    told = {
        "INSTALL_METHOD": "remote",
        "REMOTE_INSTALL_URL": f"{host}:{settings.plugins.debug_port}",
        "REMOTE_INSTALL_KEY": key,
    }
    path = folder / ".env"
    save(path, "".join(f"{name}={value}\n" for name, value in told.items()).encode())
    path.chmod(0o600)
    click.echo(path)
    if not start:
        note("run it with `python -m main` in its folder, in an environment that has dify_plugin")
        return
    note("it runs until Ctrl-C; edit its files and start it again to see what changed")
    os.chdir(folder)
    os.execve(python, [python, "-m", "main"], {**os.environ, **told})  # noqa: S606  the plugin itself, in our place


# ------------------------------------------------------------------------------------------------ installing


@plugin.command()
@click.argument("what", nargs=-1, required=True)
@click.option("--version", "version", default="", help="From a market: this version; the newest where nothing is said.")
@click.option("--verify", "must", is_flag=True, help="Refuse what nobody trusted has signed.")
@_unsigned_option
@click.option("--grant", "granted", multiple=True, help="Allow no more than this of what it asks for.")
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
    """Install plugins: files, folders, bundles, addresses, owner/repo:VERSION/file on GitHub, or author/name from a
    market."""

    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def work(yard: Any) -> list[Any]:
        done: list[Any] = []
        for one in what:
            for data in await _fetched(yard, one, version, by):
                packed, _ = await yard.services.plugins.packages.upload(data, by, verify_signature=must)
                grant = list(granted) if granted else None
                with closing(_Progress(packed.manifest.id)) as step:
                    done.append(await yard.services.plugins.installations.add(tenant, packed, granted=grant, step=step))
        return done

    found = run_with_yard(ctx, work)
    if as_json:
        print_json([{"id": one.id, "identifier": one.identifier} for one in found])
        return
    for one in found:
        offers = [f"{one.installation.provider}/{each.model}" for each in one.declaration.model.entity.models] \
            if one.declaration.model else one.declaration.providers  # fmt: skip
        click.echo(f"{one.plugin_id} {one.declaration.manifest.version}: {', '.join(offers[:6])}")
        if words := one.permissions.words():
            note(f"it may ask for {', '.join(words)}; `modelyard plugin permission {one.plugin_id} --grant …` for less")


class _Progress:
    """A bar for each plugin that is installed; lines where nobody watches."""

    _STEPS: ClassVar[Sequence[str]] = ("waiting", "unpacking", "installing dependencies", "installed")

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = time.monotonic()
        self._bar: Any = None

    def __call__(self, what: str) -> None:
        done = self._STEPS.index(what) if what in self._STEPS else 0
        is_last = done == len(self._STEPS) - 1
        if not sys.stderr.isatty():
            note(
                f"{self._name}: {what} ({time.monotonic() - self._begun:.1f} s)"
                if is_last
                else f"{self._name}: {what} …"
            )
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn(self._name), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task(what, total=len(self._STEPS) - 1)
            self._bar.start()
        self._bar.update(0, description=what, completed=done)
        if is_last:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _here(what: str) -> Path | None:
    """The file or folder that a word names, where there is one."""
    path = Path(what).expanduser()
    return path if path.exists() else None


async def _fetched(yard: Any, what: str, version: str, by: Installer) -> list[bytes]:
    """The packages that a word stands for."""
    path = _here(what)
    if path is not None:
        if path.suffix == ".difybndl":
            data = await asyncio.to_thread(path.read_bytes)
            return [one.data for one in await yard.services.plugins.packages.upload_bundle(data, by)]
        return [(await asyncio.to_thread(load_package, path)).data]
    if what.startswith(("http://", "https://")) or (what.endswith(".difypkg") and ":" in what):
        return [await yard.services.plugins.market.github(what, is_operators=True)]
    if what.endswith((".difypkg", ".difybndl")):
        raise PackageError(f"file {what!r} does not exist")
    return [await yard.services.plugins.market.fetch(what, version)]


@plugin.command("list")
@tenant_option
@json_option
@click.pass_context
def list_plugins(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """A tenant's plugins."""

    async def work(yard: Any) -> list[Any]:
        return yard.services.plugins.plugins.installed(tenant)

    found = run_with_yard(ctx, work)
    if as_json:
        print_json([
            {
                "id": one.id, "plugin": one.plugin_id, "version": one.declaration.manifest.version,
                "identifier": one.identifier, "category": one.declaration.manifest.category,
                "source": one.installation.source, "provider": one.installation.provider or None,
                "permissions": one.permissions.words(),
            }
            for one in found
        ])  # fmt: skip
        return
    columns = ("plugin", "version", "kind", "offers", "may ask for", "from")
    print_table("", columns, [
        (one.plugin_id, one.declaration.manifest.version, one.declaration.manifest.category,
         ", ".join(one.declaration.providers) or "-", ", ".join(one.permissions.words()) or "-",
         one.installation.source)
        for one in found
    ])  # fmt: skip


@plugin.command()
@click.argument("name")
@click.argument("what")
@_unsigned_option
@tenant_option
@click.pass_context
def upgrade(ctx: click.Context, name: str, what: str, unsigned: bool, tenant: str) -> None:
    """Put another version in the place of an installed one: WHAT is a file, a folder, or a version in a market."""
    by = Installer(is_operator=True, allows_unsigned=unsigned)

    async def work(yard: Any) -> Any:
        old = yard.services.plugins.plugins.find(tenant, name)
        is_version = _here(what) is None and what[0].isdigit()
        (data,) = (
            [await yard.services.plugins.market.fetch(name, what)] if is_version else await _fetched(yard, what, "", by)
        )
        packed, _ = await yard.services.plugins.packages.upload(data, by)
        if packed.manifest.id != old.plugin_id:
            raise PackageError(f"{packed.manifest.id!r} is no version of {old.plugin_id!r}")
        with closing(_Progress(name)) as step:
            return await yard.services.plugins.installations.add(tenant, packed, step=step)

    done = run_with_yard(ctx, work)
    note(f"{name} is at {done.declaration.manifest.version}")


@plugin.command()
@click.argument("name")
@tenant_option
@click.pass_context
def uninstall(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove a plugin, with all that it kept."""
    run_with_yard(ctx, lambda yard: yard.services.plugins.installations.uninstall(tenant, name))
    note(f"{name} is gone")


@plugin.command()
@click.argument("name")
@click.option("--grant", "granted", multiple=True, help="Allow this, and nothing that is not named.")
@click.option("--all", "everything", is_flag=True, help="Allow all that it asks for.")
@click.option("--none", "nothing", is_flag=True, help="Allow nothing.")
@tenant_option
@json_option
@click.pass_context
def permission(
    ctx: click.Context, name: str, granted: Sequence[str], everything: bool, nothing: bool, tenant: str, as_json: bool
) -> None:
    """What a plugin asks for, and what of that it is granted."""
    words = None if everything else list(granted)

    async def work(yard: Any) -> Any:
        if granted or everything or nothing:
            return await yard.services.plugins.installations.grant(tenant, name, words)
        return yard.services.plugins.plugins.find(tenant, name)

    one = run_with_yard(ctx, work)
    asked, allowed = one.declaration.manifest.permissions.words(), one.permissions.words()
    if as_json:
        print_json({"asks": asked, "granted": allowed})
        return
    states = [(word, good("granted") if word in allowed else bad("refused")) for word in asked]
    print_table("", ("asks for", ""), states)


# ------------------------------------------------------------------------------------------------ endpoints, market


@plugin.group()
def credential() -> None:
    """What tools and datasources are called with, where another plugin or an agent calls them."""


@credential.command("add")
@click.argument("provider")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A field of its form.")
@click.option("--label", default="default", show_default=True)
@tenant_option
@click.pass_context
def add_credential(ctx: click.Context, provider: str, given: Sequence[str], label: str, tenant: str) -> None:
    """Check a credential with its plugin, and keep it, encrypted. PROVIDER is author/plugin/provider."""

    async def work(yard: Any) -> str:
        return await yard.services.plugins.credentials.add(tenant, provider, label, _pairs(given))

    click.echo(run_with_yard(ctx, work))


@credential.command("client")
@click.argument("provider")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A field of the client's form.")
@tenant_option
@click.pass_context
def set_client(ctx: click.Context, provider: str, given: Sequence[str], tenant: str) -> None:
    """Keep the OAuth client that PROVIDER knows this server by; prints the address to register with it."""

    async def work(yard: Any) -> str:
        await yard.services.plugins.credentials.set_client(tenant, provider, _pairs(given))
        return f"{yard.services.addresses.server()}/oauth/callback/{provider}"

    click.echo(run_with_yard(ctx, work))


@credential.command("connect")
@click.argument("provider")
@click.option("--user", default="", help="For this user alone; else for all of the tenant's.")
@click.option("--label", default="default", show_default=True)
@tenant_option
@click.pass_context
def connect(ctx: click.Context, provider: str, user: str, label: str, tenant: str) -> None:
    """Print an address that a browser opens to let tools act on PROVIDER. It is good for a quarter of an hour."""

    async def work(yard: Any) -> str:
        ticket = yard.services.plugins.credentials.ticket(tenant, provider, label, user)
        return f"{yard.services.addresses.server()}/oauth/begin/{ticket}"

    click.echo(run_with_yard(ctx, work))


@credential.command("remove")
@click.argument("credential_id")
@tenant_option
@click.pass_context
def remove_credential(ctx: click.Context, credential_id: str, tenant: str) -> None:
    """Forget a credential."""
    run_with_yard(ctx, lambda yard: yard.services.plugins.rows.remove(tenant, "tool_credential", credential_id))
    note(f"{credential_id} is gone")


@plugin.group()
def endpoint() -> None:
    """Addresses that plugins serve."""


@endpoint.command("add")
@click.argument("name")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="One of its settings.")
@click.option("--label", default="endpoint", show_default=True)
@tenant_option
@click.pass_context
def add_endpoint(ctx: click.Context, name: str, given: Sequence[str], label: str, tenant: str) -> None:
    """Serve a plugin's endpoints; prints where."""

    async def work(yard: Any) -> str:
        made = await yard.services.plugins.endpoints.set_up(tenant, name, label, _pairs(given))
        return f"{yard.services.addresses.content()}/e/{made}"

    click.echo(run_with_yard(ctx, work))


@endpoint.command("list")
@tenant_option
@click.pass_context
def list_endpoints(ctx: click.Context, tenant: str) -> None:
    """A tenant's endpoints."""

    async def work(yard: Any) -> list[Any]:
        endpoints = yard.services.plugins.endpoints.all(tenant)
        return [(f"{yard.services.addresses.content()}/e/{row}", name, endpoint) for row, name, endpoint in endpoints]

    rows = run_with_yard(ctx, work)
    print_table("", ("address", "name", "plugin"), [(where, name, one.plugin) for where, name, one in rows])


@endpoint.command("remove")
@click.argument("endpoint_id")
@tenant_option
@click.pass_context
def remove_endpoint(ctx: click.Context, endpoint_id: str, tenant: str) -> None:
    """Serve it no more."""
    name = endpoint_id.rpartition("/")[2]
    run_with_yard(ctx, lambda yard: yard.services.plugins.endpoints.remove(tenant, name))
    note(f"{name} is gone")


@plugin.group()
def market() -> None:
    """Where packages are listed: plugins.markets in the settings."""


@market.command("search")
@click.argument("words", nargs=-1)
@json_option
@click.pass_context
def search_market(ctx: click.Context, words: Sequence[str], as_json: bool) -> None:
    """Plugins that all the words are said of; all where nothing is said."""
    found = run_with_yard(ctx, lambda yard: yard.services.plugins.market.search(" ".join(words)))
    if as_json:
        print_json([{"place": place, **msgspec.to_builtins(one)} for place, one in found])
        return
    print_table("", ("plugin", "version", "kind", "what it does"), [
        (one.plugin, one.version, one.category, one.description or one.label) for _, one in found
    ])  # fmt: skip


@market.command("add")
@click.argument("folder", type=_PATH)
@click.argument("packages", type=_PATH, nargs=-1, required=True)
def add_to_market(folder: Path, packages: Sequence[Path]) -> None:
    """Put packages, or plugins' folders, into a market in a folder, and write its index."""
    for path in packages:
        listed = add_to_folder(folder, path)
        click.echo(f"{listed.identifier}")
