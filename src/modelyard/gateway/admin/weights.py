"""/admin/v1/weights: local models' files."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError, suggestion
from modelyard.gateway.admin.requests import broken_stream
from modelyard.gateway.admin.shapes import Removed, WeightsShown
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.models.entities import AIModelEntity
from modelyard.providers.local.weights import WeightStore, manifest
from modelyard.runtime.model_manager import ModelManager


@dataclass(frozen=True, slots=True)
class Weights:
    """What this server has of them. All tenants see them; the operator fetches and removes them."""

    store: WeightStore
    models: ModelManager

    async def listed(self, request: Request) -> Reply:
        """All that could be fetched, here or not."""
        del request
        return json_reply({"data": await asyncio.to_thread(self._all)})

    async def pull(self, request: Request) -> StreamReply:
        """Told as it goes. Raises NotFoundError."""
        return sse_reply(_pulled(self.store, self.models, _name_of(request)), broken_stream)

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        name = _name_of(request)
        removed = await asyncio.to_thread(self.store.remove, name)
        return json_reply(Removed(id=name, deleted=bool(removed)))

    def _all(self) -> list[WeightsShown]:
        known = manifest()
        entities: dict[str, list[AIModelEntity]] = {}
        local = next((one for one in self.models.providers.factory.get_providers() if one.provider == "local"), None)
        if local is None:  # switched off
            return []
        for one in local.models:
            entities.setdefault(one.model, []).append(one)
        return [
            WeightsShown(
                id=name, model=f"local/{name}", types=[one.model_type for one in entities.get(name, ())],
                bytes=sum(file.size for file in known.files_of(name)), is_present=self.store.is_present(name),
                licence=", ".join(sorted({file.licence for file in known.files_of(name)})),
                sets=[label for label, models in known.sets.items() if name in models],
            )
            for name, model in known.models.items() if model.files
        ]  # fmt: skip


def _name_of(request: Request) -> str:
    """The model that the path names. Raises NotFoundError, for whoever is no operator too."""
    if not request.caller.is_operator:
        raise NotFoundError("local models are the operator's to fetch and remove", code="unknown_url")
    name, known = request.names["id"], manifest().models
    if name not in known:
        raise NotFoundError(f"{name!r} is no local model; {suggestion(name, known)}", code="model_not_found")
    return name


async def _pulled(store: WeightStore, models: ModelManager, name: str) -> AsyncGenerator[bytes, None]:
    """What has come, four times a second; the work goes on where nobody watches any more."""
    at: dict[str, tuple[int, int]] = {}

    def told(file: str, done: int, total: int, note: str = "") -> None:
        at[file] = done, total

    work = asyncio.ensure_future(asyncio.to_thread(store.pull, [name], told))
    while not work.done():
        await asyncio.wait([work], timeout=0.25)
        files = [{"file": file, "done": done, "total": total} for file, (done, total) in sorted(at.items())]
        yield b"data: " + encode({"files": files, "is_done": False}) + b"\n\n"
    notes = work.result()
    models.forget()
    yield b"data: " + encode({"files": [], "is_done": True, "notes": notes}) + b"\n\n"
