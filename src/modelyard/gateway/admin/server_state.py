"""/admin/v1/about, /settings and /live: what runs here, how it is set up, and what is new as it happens."""

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
from modelyard.base.fields import need
from modelyard.base.modes import private_folder
from modelyard.base.settings_file import restored, struck
from modelyard.base.version import __version__
from modelyard.gateway.admin.parts import ManageParts
from modelyard.gateway.admin.requests import broken_stream, tenant_of
from modelyard.gateway.admin.shapes import About, Package, SettingsShown
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.models.types import JSON
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.load_balancing import Health
from modelyard.tenancy.directory import Directory

_LOOK_SECONDS = 1.0
_BEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Versions, the jail, the database, what is wrong, and whose work is in here."""

    parts: ManageParts

    async def show(self, request: Request) -> Reply:
        """To the operator in full, to others in short."""
        parts, server = self.parts, self.parts.server()
        problem, rejected = parts.problem(), None
        if request.caller.is_operator:
            rejected = await asyncio.to_thread(parts.ledger.set_aside)
        elif problem is not None:
            problem = problem.partition(":")[0]
        return json_reply(
            About(
                version=__version__, python=platform.python_version(), database=parts.database, jail=parts.jail(),
                workers=server.workers, problem=problem, rejected_records=rejected,
                uptime=round(parts.clock.monotonic() - parts.began, 1), records_bodies=server.records,
                packages=await asyncio.to_thread(_packages),
            )
        )  # fmt: skip


@lru_cache(1)
def _packages() -> list[Package]:
    """What is installed here, read once: it stays while the server runs."""
    found = {one.metadata["Name"]: one for one in distributions() if one.metadata["Name"]}
    return [
        Package(name=name, version=one.version, licence=_licence(one.metadata))
        for name, one in sorted(found.items(), key=lambda pair: pair[0].lower())
    ]


def _licence(metadata: Any) -> str:
    if said := metadata.get("License-Expression"):
        return str(said)
    classifiers = [
        one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or () if one.startswith("License")
    ]
    return ", ".join(classifiers) or str(metadata.get("License") or "?").strip().partition("\n")[0][:80]


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The settings as they are written; for the operator alone."""

    path: Path
    schema: Callable[[], JSON]
    load: Callable[[Path], object]
    """What a file would say, with the environment's word over it. Raises ConfigError."""
    overridden: Sequence[str]

    async def show(self, request: Request) -> Reply:
        """Without its secrets. Raises NotFoundError for whoever is no operator."""
        _check_operator(request)
        return json_reply(await asyncio.to_thread(self._shown))

    async def write(self, request: Request) -> Reply:
        """Checked, written, taken up. Raises NotFoundError, InvokeBadRequestError."""
        _check_operator(request)
        text = need(await request.json(), "text", str)
        await asyncio.to_thread(self._write, text)
        return json_reply(await asyncio.to_thread(self._shown))

    def _shown(self) -> SettingsShown:
        text = self.path.read_text("utf-8") if self.path.is_file() else ""
        try:
            shown = struck(text)
        except ConfigError as error:
            shown = f"# {error}\n"
        return SettingsShown(path=str(self.path), text=shown, schema=self.schema(), overridden=list(self.overridden))

    def _write(self, text: str) -> None:
        """All of it or nothing. Raises InvokeBadRequestError that lists every mistake with its line."""
        path = self.path
        old = path.read_text("utf-8") if path.is_file() else ""
        private_folder(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".modelyard-", suffix=".yaml")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(restored(text, old))
            self.load(Path(name))
            Path(name).replace(path)
        except ConfigError as error:
            raise InvokeBadRequestError(str(error).replace(f"{name}:", "line "), param="text") from error
        finally:
            Path(name).unlink(missing_ok=True)


def _check_operator(request: Request) -> None:
    if not request.caller.is_operator:
        raise NotFoundError("the settings are the operator's", code="unknown_url")


@dataclass(frozen=True, slots=True)
class News:
    """A line whenever something is new, so that pages need not ask: `usage`, `resting`, `setup`."""

    ledger: Ledger
    health: Health
    directory: Directory

    async def tell(self, request: Request) -> StreamReply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        return sse_reply(self._told(tenant_of(request)), broken_stream)

    async def _told(self, tenant: str) -> AsyncGenerator[bytes, None]:
        yield b"retry: 2000\n\n"
        before, quiet = self._seen(tenant), 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now, quiet = self._seen(tenant), quiet + _LOOK_SECONDS
            if topics := [name for name, value in now.items() if before[name] != value]:
                yield b"data: " + encode({"topics": topics}) + b"\n\n"
                quiet = 0.0
            elif quiet >= _BEAT_SECONDS:
                yield b": still here\n\n"
                quiet = 0.0
            before = now

    def _seen(self, tenant: str) -> Mapping[str, Any]:
        """What can be told from memory alone: looking costs next to nothing."""
        resting = self.health.resting()
        return {
            "usage": self.ledger.settled[tenant],
            "resting": frozenset(place for place in resting if place.startswith(f"{tenant}/")),
            "setup": self.directory.changes,
        }
