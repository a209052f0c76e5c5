"""The gateway as an ASGI application: find the route, know the caller, answer, and never show a traceback."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.errors import error_reply, shape_of
from modelyard.gateway.http import ClientGoneError, Receive, Reply, Request, Scope, Send, StreamReply
from modelyard.gateway.routes import (
    audio,
    chat_completions,
    cohere,
    completions,
    embeddings,
    generate_content,
    health,
    messages,
    models,
    moderations,
    rerank,
    responses,
)
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.response_store import ResponseStore

logger = logging.getLogger("modelyard.gateway")

Route = Callable[[Request], Awaitable[Reply | StreamReply]]


def build_routes(manager: ModelManager, clock: Clock, store: ResponseStore) -> Mapping[str, Mapping[str, Route]]:
    """Path → method → route. A path that ends in a slash holds for all below it: names may hold slashes."""
    stored = responses.OneRoute(manager, store)
    google = generate_content.ListRoute(manager)
    return {
        "/v1/chat/completions": {"POST": chat_completions.Route(manager, clock)},
        "/v1/responses": {"POST": responses.CreateRoute(manager, clock, store)},
        "/v1/responses/": {"GET": stored, "DELETE": stored, "POST": stored},
        "/v1/messages": {"POST": messages.Route(manager, clock)},
        "/v1/messages/count_tokens": {"POST": messages.CountRoute(manager)},
        "/v1beta/models": {"GET": google},
        "/v1beta/models/": {"GET": google, "POST": generate_content.Route(manager, clock)},
        "/v2/chat": {"POST": cohere.ChatRoute(manager, clock)},
        "/v2/embed": {"POST": cohere.EmbedRoute(manager)},
        "/v2/rerank": {"POST": cohere.RerankRoute(manager)},
        "/v1/completions": {"POST": completions.Route(manager, clock)},
        "/v1/embeddings": {"POST": embeddings.Route(manager)},
        "/v1/rerank": {"POST": rerank.Route(manager)},
        "/v1/moderations": {"POST": moderations.Route(manager)},
        "/v1/audio/speech": {"POST": audio.SpeechRoute(manager)},
        "/v1/audio/transcriptions": {"POST": audio.TranscriptionRoute(manager)},
        "/v1/audio/translations": {"POST": audio.TranscriptionRoute(manager, task="translate")},
        "/v1/models": {"GET": models.ListRoute(manager)},
        "/v1/models/": {"GET": models.OneRoute(manager), "POST": generate_content.Route(manager, clock)},
        "/health": {"GET": health.Route(manager)},
        "/": {"GET": health.Welcome()},
    }


_OPEN = frozenset({"/", "/health"})
"""What may be asked without a key: it says nothing about anybody's models or use."""


class Gateway:
    """Give it to any ASGI server; `modelyard serve` runs it on uvicorn."""

    def __init__(
        self,
        manager: ModelManager,
        clock: Clock,
        gatekeeper: Gatekeeper,
        *,
        store: ResponseStore,
        max_body: int,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._routes = build_routes(manager, clock, store)
        self._below = [path for path in self._routes if path.endswith("/") and path != "/"]
        self._gatekeeper = gatekeeper
        self._max_body = max_body
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # a websocket: the server closes it when nobody accepts
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id("req")
        request = Request(scope, receive, request_id, "", self._max_body)
        has_begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            route = self._route(request)
            if request.path not in _OPEN:
                request.tenant = self._gatekeeper.tenant_of(scope["headers"])
            reply = await route(request)
            if isinstance(reply, StreamReply):
                await reply.send(sending, request_id.encode(), receive)
            else:
                await reply.send(sending, request_id.encode())
        except ClientGoneError:
            logger.debug("the caller left", extra={"fields": {"request": request_id}})
        except ModelyardError as error:
            if has_begun:
                raise  # nothing can be said any more: the server cuts the connection, and nobody takes half for whole
            await error_reply(error, shape_of(request.path), request_id).send(sending, request_id.encode())
        except Exception:  # the last line of defence: whatever is wrong with us, the caller gets words
            logger.exception("a request failed", extra={"fields": {"request": request_id, "path": request.path}})
            if has_begun:
                raise
            message = f"something is wrong with the server; its log has the reason under {request_id}"
            answer = error_reply(ModelyardError(message), shape_of(request.path), request_id)
            await answer.send(sending, request_id.encode())

    def _route(self, request: Request) -> Route:
        path = request.path
        methods = self._routes.get(path if path == "/" else path.rstrip("/"))
        if methods is None:
            above = next((one for one in self._below if path.startswith(one)), None)
            methods = self._routes[above] if above else None
        if methods is None:
            known = ", ".join(sorted(one for one in self._routes if one.startswith("/v") and not one.endswith("/")))
            raise NotFoundError(f"there is nothing at {path!r}; there are {known}", code="unknown_url")
        if (route := methods.get(request.method)) is None:
            raise MethodError(f"{path!r} takes {', '.join(methods)}, not {request.method}")
        return route

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._on_close is not None:
                    await asyncio.shield(self._on_close())
                await send({"type": "lifespan.shutdown.complete"})
                return


class MethodError(NotFoundError):
    """Right place, wrong verb."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="method_not_allowed")
