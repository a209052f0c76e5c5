"""/admin/v1/about, /settings and /live: state of the server, its settings file, and
change notifications."""

import asyncio
import os
import platform
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from modelyard.base.errors import ConfigError, InvokeBadRequestError, NotFoundError
from modelyard.base.fields import required_field
from modelyard.base.private_files import private_folder
from modelyard.base.settings_file import mask_secrets, unmask_secrets
from modelyard.base.version import __version__
from modelyard.gateway.admin.dependencies import AdminDependencies
from modelyard.gateway.admin.requests import broken_stream, tenant_of
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
class SettingsFile:
    """Routes for the settings file, for operators only."""

    path: Path
    schema: Callable[[], JSON]
    load: Callable[[Path], object]
    """Loads a settings file, with environment variables taking precedence. Raises
    ConfigError."""
    overridden: Sequence[str]

    async def show(self, request: Request) -> Reply:
        """Return the settings file with masked secrets.

        Raises NotFoundError if the caller is not an operator.
        """
        _check_operator(request)
        return json_reply(await asyncio.to_thread(self._shown))

    async def write(self, request: Request) -> Reply:
        """Validate and write the settings file; the server applies it.

        Raises NotFoundError, InvokeBadRequestError.
        """
        _check_operator(request)
        text = required_field(await request.json(), "text", str)
        await asyncio.to_thread(self._write, text)
        return json_reply(await asyncio.to_thread(self._shown))

    def _shown(self) -> SettingsView:
        """Return the view of the settings file. A file that cannot be parsed is
        replaced by its error."""
        text = self.path.read_text("utf-8") if self.path.is_file() else ""
        # Secrets can be masked only in a file that can be parsed.
        try:
            masked_text = mask_secrets(text)
        except ConfigError as error:
            masked_text = f"# {error}\n"
        return SettingsView(
            path=str(self.path),
            text=masked_text,
            schema=self.schema(),
            overridden=list(self.overridden),
        )

    def _write(self, text: str) -> None:
        """Replace the settings file atomically if the new text is valid.

        Raises InvokeBadRequestError that lists every mistake with its line.
        """
        path = self.path
        old = path.read_text("utf-8") if path.is_file() else ""
        private_folder(path.parent)
        # The temporary file is in the same folder, because a rename is atomic only
        # within one file system.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=".modelyard-", suffix=".yaml"
        )
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                # Masked secrets in the text get their old value back.
                file.write(unmask_secrets(text, old))
            # Validate before the rename: the server must never read an invalid file.
            self.load(Path(name))
            Path(name).replace(path)
        except ConfigError as error:
            # The error names the temporary file, which means nothing to the caller.
            raise InvokeBadRequestError(
                str(error).replace(f"{name}:", "Line "), param="text"
            ) from error
        finally:
            Path(name).unlink(missing_ok=True)


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
            "usage": self.ledger.settled[tenant],
            "resting": frozenset(
                cooldown_key
                for cooldown_key in resting
                if cooldown_key.startswith(f"{tenant}/")
            ),
            "setup": self.directory.changes,
        }
