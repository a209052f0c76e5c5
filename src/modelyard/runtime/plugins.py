"""Which plugins a tenant has: installed, upgraded, removed; their calls, their models, their endpoints and webhooks."""

import asyncio
import hmac
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError, PackageError
from modelyard.models.base import AnyModel
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.bundle import read_bundle
from modelyard.plugins.client import plugin_models
from modelyard.plugins.conversation import PluginCall
from modelyard.plugins.debug import DebugRuntime
from modelyard.plugins.declaration import WIRE, Declaration
from modelyard.plugins.host import PluginHost
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import Permissions
from modelyard.plugins.market import Market
from modelyard.plugins.package import Package, read_package
from modelyard.plugins.signature import Verification, is_signed, verify
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder
from modelyard.runtime.caller import DEFAULT_TENANT, ForbiddenError
from modelyard.runtime.plugin_credentials import PluginCredentials, checked_form
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.runtime.tenancy import (
    Directory,
    Installation,
    PluginEndpoint,
    PluginTask,
    Subscription,
)
from modelyard.storage.plugin_storage import PluginStorage
from modelyard.storage.resources import Resource, Resources, missing
from modelyard.storage.secrets import KeyRing

logger = logging.getLogger("modelyard.plugins")

_MOST_AT_ONCE = 64
_MOST_VIEWS = 4096
_DEBUG = uuid.UUID("5e0f4f5e-3a60-4b55-9f0c-6a3c0c1f7d21")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A plugin as a tenant has it."""

    id: str
    """The installation's."""
    identifier: str
    declaration: Declaration
    installation: Installation
    runtime: str = "local"
    """`local`, `remote` for one in debug, or `serverless`."""
    created_at: float = 0.0

    @property
    def plugin_id(self) -> str:
        return self.declaration.manifest.id

    @property
    def permissions(self) -> Permissions:
        """What it may ask for: what its manifest asks, as far as the tenant grants it."""
        asked, granted = self.declaration.manifest.permissions, self.installation.granted
        return asked if granted is None else asked.within(granted)


class UnsignedError(ForbiddenError):
    """The operator may install this package, and has to say that it need not be signed."""

    code = "unsigned_plugin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """Who asks for an installation."""

    is_operator: bool
    """Whether the machine is theirs. Tenants' own administrators are not."""
    allows_unsigned: bool = False
    """Whether they said, for this package, that it need not be signed by anybody trusted."""


OPERATOR = Installer(is_operator=True)


class _View(NamedTuple):
    stamp: tuple[int, int]
    listed: Sequence[Installed]
    by_name: Mapping[str, Installed]
    """By `author/name`, by identifier and by the installation's id."""


class Plugins:
    """Every method is given the tenant that it acts for, and reaches nothing else."""

    def __init__(
        self,
        host: PluginHost,
        resources: Resources,
        directory: Directory,
        providers: ProviderManager,
        keys: KeyRing,
        storage: PluginStorage,
        market: Market,
        clock: Clock,
        *,
        public_keys: Sequence[tuple[str, bytes]] = (),
        must_be_signed: bool = False,
    ) -> None:
        self.host = host
        self._resources = resources
        self._directory = directory
        self._providers = providers
        self._keys = keys
        self._storage = storage
        self.market = market
        self._clock = clock
        self._public_keys = public_keys
        self._must_be_signed = must_be_signed
        self._debugged: dict[str, dict[str, tuple[Declaration, DebugRuntime]]] = {}
        self._debug_changes = 0
        self._views: dict[str, _View] = {}
        self._listeners: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serverless: frozenset[str] = frozenset()
        self.credentials = PluginCredentials(self, directory, keys, clock)
        host.neighbours = self._local
        providers.add_from(self.added)
        directory.on_change(self._changed)

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        """End what no tenant has any more, whoever removed it."""
        if Installation.kind not in {kind for _, kind in touched}:
            return
        if self._loop is not None and not self._loop.is_closed():  # changes are read in a thread
            self._loop.call_soon_threadsafe(self._stop_unused)

    def _stop_unused(self) -> None:
        for tenant, identifier in self.host.running():
            if not any(one.plugin == identifier for _, one in self._directory.of(tenant, Installation)):
                self._begin(self.host.stop(tenant, identifier))

    def _local(self, tenant: str) -> list[str]:
        return [one.plugin for _, one in self._directory.of(tenant, Installation)]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have it told that plugins in debug came or went."""
        self._listeners.append(listener)

    def use_serverless(self, addresses: Mapping[str, str]) -> None:
        self._serverless = frozenset(addresses)
        self.host.use_serverless(addresses)

    # what there is

    def installed(self, tenant: str) -> Sequence[Installed]:
        """Those in debug first: an author wants to see the version at hand."""
        return self._view(tenant).listed

    def _view(self, tenant: str) -> "_View":
        """What a tenant has, as it was last worked out: every call looks here."""
        stamp = (self._directory.changes, self._debug_changes)
        known = self._views.get(tenant)
        if known is None or known.stamp != stamp:
            listed = self._listed(tenant)
            by_name = {name: one for one in reversed(listed) for name in (one.plugin_id, one.identifier, one.id)}
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            known = self._views[tenant] = _View(stamp, listed, by_name)
        return known

    def _listed(self, tenant: str) -> list[Installed]:
        found = [
            Installed(
                id=f"debug:{identifier}",
                identifier=identifier,
                declaration=declaration,
                installation=Installation(
                    plugin=identifier, source="remote", provider=self._free_name(tenant, declaration, debug=True)
                ),
                runtime="remote",
            )
            for identifier, (declaration, _) in self._debugged.get(tenant, {}).items()
        ]
        in_debug = {one.plugin_id for one in found}
        for known, installation in self._directory.of(tenant, Installation):
            if known.name in in_debug:
                continue
            try:
                declaration = self.host.declaration(installation.plugin)
            except ModelyardError as error:  # its files are on another machine, or gone: the others still serve
                fields = {"tenant": tenant, "plugin": installation.plugin, "error": str(error)}
                logger.error("an installed plugin cannot be read", extra={"fields": fields})
                continue
            runtime = "serverless" if known.name in self._serverless else "local"
            found.append(
                Installed(
                    id=known.id,
                    identifier=installation.plugin,
                    declaration=declaration,
                    installation=installation,
                    runtime=runtime,
                )
            )
        return found

    def find(self, tenant: str, plugin: str) -> Installed:
        """By `author/name`, or with version and checksum behind it. Raises NotFoundError."""
        found = self._view(tenant).by_name.get(plugin)
        if found is None:
            raise NotFoundError(f"plugin {plugin!r} is not installed", code="plugin_not_found")
        return found

    def provider(self, tenant: str, name: str) -> tuple[Installed, str]:
        """Whose provider `author/plugin/provider` or `provider` is, with the plugin's own word for it.

        Raises NotFoundError.
        """
        owner, _, bare = name.rpartition("/")
        for one in self.installed(tenant):
            if bare in one.declaration.providers and owner in ("", one.plugin_id):
                return one, bare
        raise NotFoundError(f"no plugin with the provider {name!r} is installed", code="provider_not_found")

    # models

    def added(self, tenant: str) -> tuple[list[ProviderDefinition], Builder]:
        """The model providers of a tenant's plugins, under the names that they have here, and who makes their
        models."""
        owners: dict[str, tuple[Installed, str]] = {}
        definitions: list[ProviderDefinition] = []
        for one in self.installed(tenant):
            model = one.declaration.model
            if model is None or one.installation.provider in owners:
                continue
            name = one.installation.provider or model.name
            entity = msgspec.structs.replace(model.entity, provider=name)
            definitions.append(replace(model, entity=entity, wire=WIRE))
            owners[name] = (one, model.name)

        def build(definition: ProviderDefinition) -> Mapping[ModelType, AnyModel]:
            one, bare = owners[definition.name]

            def ask(call: PluginCall) -> AsyncGenerator[JSON, None]:
                return self.host.call(one.identifier, call)

            return plugin_models(ask, definition, tenant=tenant, plugin=one.plugin_id, provider=bare)

        return definitions, build

    def model_name(self, tenant: str, provider: str, model: str) -> str:
        """`provider/model` as it is called here, of a provider that may be named as plugins name them."""
        owner, _, bare = provider.rpartition("/")
        if owner:
            for one in self.installed(tenant):
                declared = one.declaration.model
                if declared is not None and declared.name == bare and one.plugin_id == owner:
                    return f"{one.installation.provider or bare}/{model}"
        return f"{bare}/{model}"

    def _free_name(self, tenant: str, declaration: Declaration, *, debug: bool = False) -> str:
        """What a plugin's model provider is called: its own name, where nobody has it."""
        if declaration.model is None:
            return ""
        manifest, bare = declaration.manifest, declaration.model.name
        taken = {entity.provider for entity in self._providers.factory.get_providers()}
        for known, installation in self._directory.of(tenant, Installation):
            if known.name == manifest.id:
                return installation.provider or bare
            taken.add(installation.provider)
        choices = [bare, f"{manifest.author}-{bare}", f"{manifest.author}-{manifest.name}-{bare}"]
        return next((one for one in choices if one not in taken), f"{bare}-debug" if debug else choices[-1])

    # calls

    async def call(
        self,
        tenant: str,
        plugin: str,
        kind: str,
        action: str,
        data: Mapping[str, Any],
        *,
        user: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[JSON, None]:
        """`more` are ids that go with the request. Raises NotFoundError, PluginError."""
        self._loop = self._loop or asyncio.get_running_loop()
        one = self.find(tenant, plugin)
        call = PluginCall(
            tenant=tenant,
            plugin=one.plugin_id,
            permissions=one.permissions,
            user=user or "modelyard",
            type=kind,
            action=action,
            data=dict(data),
            **(more or {}),
        )
        async with aclosing(self.host.call(one.identifier, call)) as answers:
            async for answer in answers:
                yield answer

    async def one(
        self, tenant: str, plugin: str, kind: str, action: str, data: Mapping[str, Any], *, user: str = ""
    ) -> JSON:
        """The first answer; empty where none came."""
        async with aclosing(self.call(tenant, plugin, kind, action, data, user=user)) as answers:
            async for answer in answers:
                return answer
        return {}

    # packages

    async def upload(
        self, data: bytes, by: Installer = OPERATOR, *, verify_signature: bool = False
    ) -> tuple[Package, Verification | None]:
        """Keep a package that is to be installed. Raises PackageError for one that is damaged, or that must be signed
        and is not; ForbiddenError for one that is not theirs to install."""
        package = await asyncio.to_thread(read_package, data)
        if package.manifest.type != "plugin":
            raise PackageError(f"this is a {package.manifest.type}, not a plugin")
        found = await asyncio.to_thread(self._admitted, package, by, must=verify_signature)
        await asyncio.to_thread(self.host.keep, package)
        return package, found

    async def upload_bundle(
        self, data: bytes, by: Installer = OPERATOR, *, verify_signature: bool = False
    ) -> list[Package]:
        """Keep all that a bundle holds or names, to be installed. Raises PackageError, PluginError, ForbiddenError."""
        bundle = await asyncio.to_thread(read_bundle, data)
        packages = bundle.packages()
        for one in bundle.dependencies:
            if one.kind == "github":
                packages.append(await asyncio.to_thread(read_package, await self.market.github(one.where)))
            elif one.kind == "marketplace":
                plugin, _, version = one.where.partition(":")
                packages.append(await asyncio.to_thread(read_package, await self.market.fetch(plugin, version)))
        return [(await self.upload(one.data, by, verify_signature=verify_signature))[0] for one in packages]

    def _admitted(self, package: Package, by: Installer, *, must: bool = False) -> Verification | None:
        """The one place that decides who may install what: every way to install comes through here.

        A package runs code on this machine. One that somebody trusted has signed may be installed by any administrator;
        another by the operator alone, who has to say so once the machine serves more tenants than one.
        Raises PackageError where it must be signed and is not, ForbiddenError, UnsignedError.
        """
        must = must or self._must_be_signed
        if must or (is_signed(package.data) and self._public_keys):
            try:
                return verify(package.data, self._public_keys)
            except PackageError:
                if must:
                    raise
        name = f"{package.manifest.id} {package.manifest.version}"
        if not by.is_operator:
            raise ForbiddenError(
                f"{name} is not signed with a key that the operator trusts, so the operator alone may install it; "
                "have it signed, or ask the operator"
            )
        if not by.allows_unsigned and self._is_shared():
            raise UnsignedError(
                f"{name} is not signed with a key under plugins.public_keys, and this server has several tenants; "
                "install it with `modelyard plugin install --unsigned`, or send 'unsigned=true', if it is to be trusted"
            )
        return None

    def _is_shared(self) -> bool:
        return any(name != DEFAULT_TENANT for name, _ in self._directory.tenants())

    # installing

    async def install(
        self,
        tenant: str,
        identifiers: Sequence[str],
        by: Installer = OPERATOR,
        *,
        source: str = "package",
        metas: Sequence[JSON] = (),
        granted: list[str] | None = None,
    ) -> tuple[str, bool]:
        """Install packages that were uploaded, in a task of their own: (task, whether there was nothing to do).

        Raises NotFoundError, PackageError, InvokeBadRequestError, ForbiddenError.
        """
        if not identifiers or len(identifiers) > _MOST_AT_ONCE:
            raise InvokeBadRequestError(f"1 to {_MOST_AT_ONCE} plugins can be installed at once")
        packages = [await asyncio.to_thread(self.host.package, one) for one in identifiers]
        for package in packages:  # it may be here because somebody else uploaded it, who may do more
            await asyncio.to_thread(self._admitted, package, by)
        present = {one.identifier for one in self.installed(tenant)}
        plugins = [
            {
                "plugin_unique_identifier": identifier,
                "plugin_id": package.manifest.id,
                "labels": package.manifest.label,
                "icon": package.manifest.icon,
                "source": source,
                "status": "pending",
                "message": "",
            }
            for identifier, package in zip(identifiers, packages, strict=True)
        ]
        is_done = present.issuperset(identifiers)
        task = PluginTask(status="success" if is_done else "running", plugins=plugins)
        name = f"install-{uuid.uuid4().hex}"
        made = self._resources.add(tenant, PluginTask.kind, name, lambda row: msgspec.json.encode(task).decode())
        resource: Resource = await asyncio.wrap_future(made)
        if not is_done:
            self._begin(self._install_all(tenant, resource, task, packages, list(metas), granted))
        return resource.id, is_done

    async def _install_all(
        self,
        tenant: str,
        resource: Resource,
        task: PluginTask,
        packages: Sequence[Package],
        metas: Sequence[JSON],
        granted: list[str] | None,
    ) -> None:
        plugins = [dict(one) for one in task.plugins]
        for place, package in enumerate(packages):
            entry = plugins[place]

            def step(what: str, entry: JSON = entry) -> None:
                entry["status"], entry["message"] = "running", what

            try:
                step("waiting")
                resource = await self._say(resource, plugins, "running")
                meta = metas[place] if place < len(metas) else {}
                await self.add(tenant, package, source=entry["source"], meta=meta, granted=granted, step=step)
                entry["status"], entry["message"] = "success", "installed"
            except ModelyardError as error:
                entry["status"], entry["message"] = "failed", str(error)
            except Exception:
                logger.exception("an installation failed", extra={"fields": {"plugin": package.manifest.id}})
                entry["status"], entry["message"] = "failed", "something is wrong with the server; its log has it"
        failed = any(one["status"] == "failed" for one in plugins)
        await self._say(resource, plugins, "failed" if failed else "success")

    async def _say(self, resource: Resource, plugins: Sequence[JSON], status: str) -> Resource:
        body = msgspec.json.encode(PluginTask(status=status, plugins=[dict(one) for one in plugins])).decode()
        try:
            return await asyncio.wrap_future(self._resources.change(resource, name=resource.name, body=body))
        except NotFoundError:  # somebody took the task away; the work goes on
            return resource

    async def add(
        self,
        tenant: str,
        package: Package,
        *,
        source: str = "package",
        meta: JSON | None = None,
        granted: list[str] | None = None,
        step: Callable[[str], None] = lambda what: None,
    ) -> Installed:
        """Install one package for a tenant, in the place of another version that it has."""
        declaration = await self.host.install(package, step)
        identifier, manifest = str(package.identifier), package.manifest
        before = next(((known, one) for known, one in self._directory.of(tenant, Installation)
                       if known.name == manifest.id), None)  # fmt: skip
        installation = Installation(
            plugin=identifier,
            source=source,
            meta=meta or {},
            granted=granted if before is None or granted is not None else before[1].granted,
            provider=self._free_name(tenant, declaration),
        )
        body = msgspec.json.encode(installation).decode()
        if before is None:
            made = self._resources.add(tenant, Installation.kind, manifest.id, lambda row: body)
            row: Resource = await asyncio.wrap_future(made)
        else:
            old = await asyncio.to_thread(self._resources.one, tenant, Installation.kind, before[0].id)
            row = await asyncio.wrap_future(self._resources.change(old, name=manifest.id, body=body))
        await asyncio.to_thread(self._directory.refresh)
        if before is not None and before[1].plugin != identifier:
            await self.host.stop(tenant, before[1].plugin)
            await self.drop_unused(before[1].plugin)
        return Installed(id=row.id, identifier=identifier, declaration=declaration, installation=installation)

    async def upgrade(
        self, tenant: str, old: str, new: str, by: Installer = OPERATOR, *, source: str, meta: JSON | None = None
    ) -> str:
        """Another version in the place of one. The task's id. Raises NotFoundError, InvokeBadRequestError."""
        one = self.find(tenant, old)
        parsed = PluginIdentifier.parse(new)
        if parsed.id != one.plugin_id:
            raise InvokeBadRequestError(f"{new!r} is no version of {one.plugin_id!r}")
        task, _ = await self.install(tenant, [new], by, source=source, metas=[meta or {}])
        return task

    async def uninstall(self, tenant: str, plugin: str) -> None:
        """Remove a plugin and what it kept. Raises NotFoundError."""
        one = self.find(tenant, plugin)
        if one.runtime == "remote":
            raise InvokeBadRequestError(f"{one.plugin_id!r} is in debug: stop it where it runs")
        await asyncio.wrap_future(self._resources.remove(tenant, Installation.kind, one.id))
        for kind in (PluginEndpoint, Subscription):
            for known, value in self._directory.of(tenant, kind):
                if value.plugin == one.plugin_id:
                    await asyncio.wrap_future(self._resources.remove(tenant, kind.kind, known.id))
        await self._storage.clear(tenant, one.plugin_id)
        await asyncio.to_thread(self._directory.refresh)
        await self.host.stop(tenant, one.identifier)
        await self.host.clear(tenant, one.plugin_id)
        await self.drop_unused(one.identifier)

    async def drop_unused(self, identifier: str) -> None:
        """Take a plugin's files off this machine where no tenant has it."""
        if not self._directory.anybody(Installation, lambda one: one.plugin == identifier):
            await self.host.remove(identifier)

    async def grant(self, tenant: str, plugin: str, words: list[str] | None) -> Installed:
        """What a plugin may ask its host for from now on. Raises InvokeBadRequestError for what it does not ask."""
        one = self.find(tenant, plugin)
        asked = one.declaration.manifest.permissions.words()
        if unknown := [word for word in words or () if word not in asked]:
            raise InvokeBadRequestError(
                f"{one.plugin_id!r} does not ask for {unknown[0]!r}; it asks for {', '.join(asked) or 'nothing'}"
            )
        old = await asyncio.to_thread(self._resources.one, tenant, Installation.kind, one.id)
        installation = msgspec.structs.replace(one.installation, granted=words)
        body = msgspec.json.encode(installation).decode()
        await asyncio.wrap_future(self._resources.change(old, name=old.name, body=body))
        await asyncio.to_thread(self._directory.refresh)
        return replace(one, installation=installation)

    # tasks

    def tasks(self, tenant: str) -> list[tuple[Resource, PluginTask]]:
        """Newest first."""
        rows = self._resources.all(tenant, PluginTask.kind)
        found = [(row, msgspec.json.decode(row.body, type=PluginTask)) for row in rows]
        return sorted(found, key=lambda pair: -pair[0].created_at)

    def task(self, tenant: str, id: str) -> tuple[Resource, PluginTask]:  # noqa: A002  the field's word
        row = self._resources.one(tenant, PluginTask.kind, id)
        return row, msgspec.json.decode(row.body, type=PluginTask)

    async def forget_task(self, tenant: str, id: str) -> None:  # noqa: A002
        await asyncio.wrap_future(self._resources.remove(tenant, PluginTask.kind, id))

    async def settled(self) -> None:
        """Until no installation runs here."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    # endpoints, subscriptions and credentials: forms with secrets in them

    async def keep_secret(self, tenant: str, kind: str, name: str, secret: Any, value: Any, *, id: str = "") -> str:  # noqa: A002
        """Store `value` with `secret` encrypted in it; in the place of the one with this id, where there is one."""
        text = msgspec.json.encode(secret).decode()

        def body(row: str) -> str:
            sealed = self._keys.encrypt(text, tenant=tenant, kind=kind, row=row)
            return msgspec.json.encode(msgspec.structs.replace(value, secret=sealed)).decode()

        if id:
            old = await asyncio.to_thread(self._resources.one, tenant, kind, id)
            await asyncio.wrap_future(self._resources.change(old, name=name, body=body(id)))
        else:
            made: Resource = await asyncio.wrap_future(self._resources.add(tenant, kind, name, body))
            id = made.id  # noqa: A001
        await asyncio.to_thread(self._directory.refresh)
        return id

    def secret(self, tenant: str, kind: str, id: str, sealed: str) -> Any:  # noqa: A002
        """Raises SecretError."""
        return msgspec.json.decode(self._keys.decrypt(sealed, tenant=tenant, kind=kind, row=id))

    async def set_up_endpoint(
        self,
        tenant: str,
        plugin: str,
        name: str,
        settings: JSON,
        *,
        user: str = "",
        id: str = "",  # noqa: A002
    ) -> str:
        """Serve a plugin's endpoints under an address of their own: its id. Raises InvokeBadRequestError."""
        one = self.find(tenant, plugin)
        group = one.declaration.endpoint
        if group is None:
            raise InvokeBadRequestError(f"{one.plugin_id!r} has no endpoints")
        if not one.permissions.endpoint.enabled:
            raise InvokeBadRequestError(f"{one.plugin_id!r} may serve no endpoints: its manifest does not ask for it")
        filled = checked_form(group.settings, settings, what=f"the settings of {one.plugin_id!r}")
        return await self.keep_secret(
            tenant, PluginEndpoint.kind, name, filled, PluginEndpoint(plugin=one.plugin_id, user=user), id=id
        )

    async def change_endpoint(self, tenant: str, id: str, *, is_enabled: bool) -> None:  # noqa: A002
        value = self._directory.one(tenant, PluginEndpoint, id)
        if value is None:
            raise missing(PluginEndpoint.kind, id)
        old = await asyncio.to_thread(self._resources.one, tenant, PluginEndpoint.kind, id)
        body = msgspec.json.encode(msgspec.structs.replace(value, is_enabled=is_enabled)).decode()
        await asyncio.wrap_future(self._resources.change(old, name=old.name, body=body))
        await asyncio.to_thread(self._directory.refresh)

    async def remove(self, tenant: str, kind: str, id: str) -> None:  # noqa: A002
        """An endpoint, a subscription or a credential. Raises NotFoundError."""
        await asyncio.wrap_future(self._resources.remove(tenant, kind, id))
        await asyncio.to_thread(self._directory.refresh)

    def endpoints(self, tenant: str) -> list[tuple[str, str, PluginEndpoint]]:
        return [(known.id, known.name, value) for known, value in self._directory.of(tenant, PluginEndpoint)]

    def endpoint(self, id: str) -> tuple[str, PluginEndpoint, JSON]:  # noqa: A002
        """(tenant, endpoint, settings) by the id in its address. Raises NotFoundError."""
        found = self._directory.wherever(PluginEndpoint, id)
        if found is None or not found[1].is_enabled or self._directory.shuts_out(found[0], found[1].user):
            raise NotFoundError("there is no such endpoint", code="endpoint_not_found")
        tenant, value = found
        return tenant, value, self.secret(tenant, PluginEndpoint.kind, id, value.secret)

    def check_tenant(self, tenant: str) -> None:
        """Raises NotFoundError for a tenant that was removed or switched off."""
        if self._directory.shuts_out(tenant):
            raise missing("tenant", tenant)

    def subscription(self, id: str) -> tuple[str, Subscription, JSON]:  # noqa: A002
        found = self._directory.wherever(Subscription, id)
        if found is None or self._directory.shuts_out(found[0], found[1].user):
            raise NotFoundError("there is no such webhook", code="subscription_not_found")
        tenant, value = found
        return tenant, value, self.secret(tenant, Subscription.kind, id, value.secret)

    async def subscribe(
        self, tenant: str, plugin: str, name: str, parameters: JSON, credentials: JSON, *, origin: str, user: str = ""
    ) -> str:
        """Have a trigger plugin's provider tell what happens: the subscription's id, which its webhook's address ends
        in. Nothing is left behind where the provider refuses."""
        one = self.find(tenant, plugin)
        trigger = one.declaration.trigger
        if trigger is None:
            raise InvokeBadRequestError(f"{one.plugin_id!r} has no triggers")
        provider = trigger.identity.name
        value = Subscription(plugin=one.plugin_id, provider=provider, user=user)
        row = await self.keep_secret(tenant, Subscription.kind, name, {}, value)
        kind = "api-key" if credentials else "unauthorized"
        data = {
            "provider": provider, "endpoint": f"{origin}/t/{row}", "parameters": parameters,
            "credentials": credentials, "credential_type": kind,
        }  # fmt: skip
        try:
            said = await self.one(tenant, plugin, "trigger", "subscribe_trigger", data, user=user)
            kept = {"subscription": said.get("subscription") or {}, "credentials": credentials, "credential_type": kind}
            await self.keep_secret(tenant, Subscription.kind, name, kept, value, id=row)
        except BaseException:
            await self.remove(tenant, Subscription.kind, row)
            raise
        return row

    def subscriptions(self, tenant: str) -> list[tuple[str, str, Subscription]]:
        """(id, name, subscription) of all that a tenant has."""
        return [(known.id, known.name, value) for known, value in self._directory.of(tenant, Subscription)]

    async def unsubscribe(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError; the provider's refusal is said in the log, and the webhook is gone all the same."""
        value = self._directory.one(tenant, Subscription, id)
        if value is None:
            raise missing(Subscription.kind, id)
        kept = self.secret(tenant, Subscription.kind, id, value.secret)
        try:
            data = {"provider": value.provider, **kept}
            await self.one(tenant, value.plugin, "trigger", "unsubscribe_trigger", data)
        except ModelyardError as error:
            fields = {"subscription": id, "error": str(error)}
            logger.warning("a provider was not told that nobody listens any more", extra={"fields": fields})
        await self.remove(tenant, Subscription.kind, id)

    async def renew_subscriptions(self, until: float) -> int:
        """Have those made anew that end before then; how many. A provider that refuses is said in the log."""
        count = 0
        for tenant, known, value in list(self._directory.everywhere(Subscription)):
            try:
                kept = self.secret(tenant, Subscription.kind, known.id, value.secret)
                ends = (kept.get("subscription") or {}).get("expires_at") or -1
                if not 0 < ends < until:
                    continue
                data = {"provider": value.provider, **kept}
                said = await self.one(tenant, value.plugin, "trigger", "refresh_trigger", data)
                fresh = {**kept, "subscription": {**kept["subscription"], **(said.get("subscription") or {})}}
                await self.keep_secret(tenant, Subscription.kind, known.name, fresh, value, id=known.id)
                count += 1
            except ModelyardError as error:
                fields = {"subscription": known.id, "error": str(error)}
                logger.warning("a subscription could not be made anew", extra={"fields": fields})
        return count

    # plugins in debug

    def debugging_key(self, tenant: str) -> str:
        """What a plugin in debug shows to become this tenant's. It stays the same."""
        return str(uuid.uuid5(_DEBUG, self._keys.digest(f"debug:{tenant}".encode())))

    def tenant_of_key(self, key: str) -> str | None:
        tenants = ["default", *(tenant for tenant, _ in self._directory.tenants())]
        # As bytes: a key that is not ASCII cannot be compared in constant time, and is none.
        shown = key.encode("utf-8", "replace")
        found = next((one for one in tenants if hmac.compare_digest(self.debugging_key(one).encode(), shown)), None)
        return found if found is not None and not self._directory.shuts_out(found) else None

    def connected(self, tenant: str, identifier: str, declaration: Declaration, runtime: DebugRuntime) -> None:
        self.host.connect(tenant, identifier, declaration, runtime)
        self._debugged.setdefault(tenant, {})[identifier] = (declaration, runtime)
        self._tell()

    def disconnected(self, tenant: str, identifier: str, runtime: DebugRuntime) -> None:
        self.host.disconnect(tenant, identifier, runtime)
        here = self._debugged.get(tenant, {})
        if identifier in here and here[identifier][1] is runtime:
            del here[identifier]
            self._tell()

    def asset(self, tenant: str, plugin: str, name: str) -> bytes:
        """A file of a plugin's `_assets`. Raises NotFoundError."""
        one = self.find(tenant, plugin)
        if one.runtime == "remote":
            found = self._debugged[tenant][one.identifier][1].assets.get(name)
        else:
            found = self.host.package(one.identifier).files.get(f"_assets/{name}")
        if found is None:
            raise NotFoundError(f"{one.plugin_id!r} has no asset {name!r}", code="asset_not_found")
        return found

    def _tell(self) -> None:
        self._debug_changes += 1
        self._providers.forget()
        for listener in self._listeners:
            listener()

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        await self.host.aclose()
