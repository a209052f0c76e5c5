"""/admin/v1/weights: files of local models."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError, suggestion
from modelyard.gateway.admin.requests import broken_stream
from modelyard.gateway.admin.shapes import Removed, WeightsView
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.models.entities import AIModelEntity
from modelyard.providers.local.weights import WeightStore, manifest
from modelyard.runtime.model_manager import ModelManager


@dataclass(frozen=True, slots=True)
class Weights:
    """Routes for the files of local models. All tenants may list them; only operators
    may download and delete them."""

    store: WeightStore
    models: ModelManager

    async def listed(self, request: Request) -> Reply:
        """List all models that can be downloaded, present or not."""
        del request
        return json_reply({"data": await asyncio.to_thread(self._views)})

    async def pull(self, request: Request) -> StreamReply:
        """Download the files of a model and stream the progress.

        Raises NotFoundError.
        """
        return sse_reply(
            _pull_progress(self.store, self.models, _requested_model(request)),
            broken_stream,
        )

    async def remove(self, request: Request) -> Reply:
        """Delete the files of a model.

        Raises NotFoundError.
        """
        name = _requested_model(request)
        removed = await asyncio.to_thread(self.store.remove, name)
        return json_reply(Removed(id=name, deleted=bool(removed)))

    def _views(self) -> list[WeightsView]:
        """Return the views of all local models with files; empty if the local provider
        is disabled."""
        weights_manifest = manifest()
        entities: dict[str, list[AIModelEntity]] = {}
        local = next(
            (
                provider
                for provider in self.models.providers.factory.get_providers()
                if provider.provider == "local"
            ),
            None,
        )
        # Local models are disabled.
        if local is None:
            return []
        # A model can have several types, for example embedding and rerank, with the
        # same files.
        for entity in local.models:
            entities.setdefault(entity.model, []).append(entity)
        return [
            WeightsView(
                id=name,
                model=f"local/{name}",
                types=[entity.model_type for entity in entities.get(name, ())],
                bytes=sum(file.size for file in weights_manifest.files_of(name)),
                is_present=self.store.is_present(name),
                licence=", ".join(
                    sorted({file.licence for file in weights_manifest.files_of(name)})
                ),
                sets=[
                    label
                    for label, models in weights_manifest.sets.items()
                    if name in models
                ],
            )
            for name, model in weights_manifest.models.items()
            if model.files
        ]


def _requested_model(request: Request) -> str:
    """Return the model of the request's path.

    Raises NotFoundError if there is none, and also if the caller is not an operator.
    """
    if not request.caller.is_operator:
        raise NotFoundError(
            "Only an operator may download or remove local models", code="unknown_url"
        )
    name, models = request.names["id"], manifest().models
    if name not in models:
        raise NotFoundError(
            f"{name!r} is not a local model; {suggestion(name, models)}",
            code="model_not_found",
        )
    return name


async def _pull_progress(
    store: WeightStore, models: ModelManager, name: str
) -> AsyncGenerator[bytes, None]:
    """Yield the download progress four times a second. The download continues if the
    client disconnects."""
    progress: dict[str, tuple[int, int]] = {}

    def on_progress(file: str, done_bytes: int, total: int, note: str = "") -> None:
        """Record the progress of one file. Called from the download thread."""
        progress[file] = done_bytes, total

    # A task of its own: cancelling this generator must not cancel the download.
    work = asyncio.ensure_future(asyncio.to_thread(store.pull, [name], on_progress))
    while not work.done():
        await asyncio.wait([work], timeout=0.25)
        files = [
            {"file": file, "done": done_bytes, "total": total}
            for file, (done_bytes, total) in sorted(progress.items())
        ]
        yield b"data: " + encode({"files": files, "is_done": False}) + b"\n\n"
    # Raises here if the download failed.
    notes = work.result()
    # The model list is cached, and the new files change which models are ready.
    models.clear_cache()
    yield b"data: " + encode({"files": [], "is_done": True, "notes": notes}) + b"\n\n"
