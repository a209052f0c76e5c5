"""/admin/v1/about, /settings and /live: state of the server, its settings, and
change notifications."""

import asyncio
import platform
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from typing import Any

from modelyard.base.errors import ConfigError, InvokeBadRequestError, NotFoundError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.settings_file import mask_secrets, unmask_secrets
from modelyard.base.version import __version__
from modelyard.gateway.admin.dependencies import AdminDependencies
from modelyard.gateway.admin.requests import broken_stream, tenant_of
from modelyard.gateway.admin.settings_document import SettingsDocument, SettingsText
from modelyard.gateway.admin.shapes import About, Package, SettingsView
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.operations.health import Problem
from modelyard.models.types import JSON
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.load_balancing import DeploymentHealth
from modelyard.runtime.unserved_calls import UnservedCalls
from modelyard.tenancy.directory import Directory

_POLL_SECONDS = 1.0
# Proxies close streams in which nothing was sent for about a minute.
_HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ServerAboutRoute:
    """Route for the versions, the sandbox, the database, problems and installed
    packages of the server."""

    parts: AdminDependencies

    async def show(self, request: Request) -> Reply:
        """Return the state of the server; operators see more than other callers."""
        parts, server = self.parts, self.parts.server()
        problem, rejected = parts.problem(), None
        if request.caller.is_operator:
            rejected = await asyncio.to_thread(parts.ledger.count_rejected)
        return json_reply(
            About(
                version=__version__,
                python=platform.python_version(),
                database=parts.database,
                sandbox=parts.sandbox(),
                workers=server.workers,
                problem=_shown(problem, to_operator=request.caller.is_operator),
                rejected_records=rejected,
                uptime=round(parts.clock.monotonic() - parts.started_at, 1),
                records_bodies=server.records,
                # It names settings and no values, so everybody may read it.
                mail_problem=server.mail_problem or None,
                # Reading the metadata of all packages takes long the first time.
                packages=await asyncio.to_thread(_packages),
            )
        )


def _shown(problem: Problem | None, *, to_operator: bool) -> str | None:
    """Return what a caller may read of a problem: the part after the colon can contain
    paths and addresses of the server."""
    if problem is None:
        return None
    return problem.text if to_operator else problem.public_text


@lru_cache(1)
def _packages() -> list[Package]:
    """Return the installed packages. The result is cached: they do not change while the
    server runs."""
    distributions_by_name = {
        distribution.metadata["Name"]: distribution
        for distribution in distributions()
        if distribution.metadata["Name"]
    }
    return [
        Package(
            name=name,
            version=distribution.version,
            licence=_licence(distribution.metadata),
        )
        for name, distribution in sorted(
            distributions_by_name.items(), key=lambda pair: pair[0].lower()
        )
    ]


def _licence(metadata: Any) -> str:
    """Return the licence of a package from its metadata, or "?" if it states none."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    # Older packages state the licence as a classifier, or as free text that may be the
    # full licence.
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or ()
        if classifier.startswith("License")
    ]
    return (
        ", ".join(classifiers)
        or str(metadata.get("License") or "?").strip().partition("\n")[0][:80]
    )


@dataclass(frozen=True, slots=True)
class SettingsRoutes:
    """Routes for the settings, for operators only."""

    document: SettingsDocument
    schema: Callable[[], JSON]
    overridden: Sequence[str]

    async def show(self, request: Request) -> Reply:
        """Return the settings with masked secrets.

        Raises NotFoundError if the caller is not an operator.
        """
        _check_operator(request)
        return json_reply(self._view(await self.document.read()))

    async def write(self, request: Request) -> Reply:
        """Validate and store the settings; the servers apply them.

        Raises NotFoundError, InvokeBadRequestError.
        """
        _check_operator(request)
        body = await request.json()
        text = required_field(body, "text", str)
        version = optional_field(body, "version", int)
        current = await self.document.read()
        # Masks would get the values of a version that the caller has not seen.
        if version is not None and version != current.version:
            raise InvokeBadRequestError(
                f"The settings have version {current.version} by now, not {version};"
                " load them again",
                param="version",
            )
        try:
            # Masked secrets in the text get their old value back.
            text = unmask_secrets(text, current.text)
        except ConfigError as error:
            raise InvokeBadRequestError(str(error), param="text") from error
        changed_by = request.caller.user or "operator"
        await self.document.write(current, text, changed_by)
        return json_reply(self._view(await self.document.read()))

    def _view(self, settings: SettingsText) -> SettingsView:
        """Return the view of the settings. A text that cannot be parsed is replaced by
        its error."""
        # Secrets can be masked only in a text that can be parsed.
        try:
            masked_text = mask_secrets(settings.text)
        except ConfigError as error:
            masked_text = f"# {error}\n"
        return SettingsView(
            path=settings.location,
            text=masked_text,
            schema=self.schema(),
            overridden=list(self.overridden),
            version=settings.version,
            fixed=settings.fixed,
        )


def _check_operator(request: Request) -> None:
    """Raise NotFoundError if the caller is not an operator."""
    if not request.caller.is_operator:
        raise NotFoundError(
            "Only an operator may access the settings", code="unknown_url"
        )


@dataclass(frozen=True, slots=True)
class ChangeNotifications:
    """Route that streams a notification when `usage`, `resting` or `setup` change, so
    that pages need not poll."""

    ledger: Ledger
    unserved: UnservedCalls
    health: DeploymentHealth
    directory: Directory

    async def stream(self, request: Request) -> StreamReply:
        """Stream the notifications for a tenant.

        Raises NotFoundError for a tenant that the caller may not access.
        """
        return sse_reply(self._notifications(tenant_of(request)), broken_stream)

    async def _notifications(self, tenant: str) -> AsyncGenerator[bytes, None]:
        """Yield a notification with the changed topics, at most one per second."""
        # Browsers reconnect after 2 s.
        yield b"retry: 2000\n\n"
        previous, quiet = self._topic_states(tenant), 0.0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            current, quiet = self._topic_states(tenant), quiet + _POLL_SECONDS
            if topics := [
                name for name, value in current.items() if previous[name] != value
            ]:
                yield b"data: " + encode({"topics": topics}) + b"\n\n"
                quiet = 0.0
            elif quiet >= _HEARTBEAT_SECONDS:
                # Proxies close idle connections; a comment line keeps this one open.
                yield b": still here\n\n"
                quiet = 0.0
            previous = current

    def _topic_states(self, tenant: str) -> Mapping[str, Any]:
        """Return the current state of all topics. Reads memory only, because it runs
        every second for each client."""
        resting = self.health.in_cooldown()
        return {
            "usage": (self.ledger.settled[tenant], self.unserved.added[tenant]),
            "resting": frozenset(
                cooldown_key
                for cooldown_key in resting
                if cooldown_key.startswith(f"{tenant}/")
            ),
            "setup": self.directory.changes,
        }
