"""Doubles for tests, ours and yours. None of them is used by the product itself.

- `FakeClock`: time that passes when told to.
- `scripted`: the end of a pipeline that answers from a script, and remembers who was asked.
- `echo_provider`: a provider of all six types in this process, without a model.
- `Upstream`: a real HTTP server on loopback that plays an OpenAI-compatible provider, faults included.
"""

import asyncio
import json
import socket
import threading
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, I18nObject, PriceConfig
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.moderation import ModerationRequest, ModerationResult, ModerationVerdict
from modelyard.models.provider import ConfigurateMethod, ProviderEntity
from modelyard.models.rerank import RerankDocument, RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import Chunks, Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call


class FakeClock:
    """Time that passes only in `sleep` and `advance`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def chunk(text: str, *, model: str = "scripted") -> LLMResultChunk:
    return LLMResultChunk(model=model, delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=text)))


def last_chunk(prompt: int = 1, completion: int = 1, *, model: str = "scripted") -> LLMResultChunk:
    """The chunk that ends a stream, with usage."""
    delta = LLMResultChunkDelta(finish_reason="stop", usage=LLMUsage.of(prompt, completion))
    return LLMResultChunk(model=model, delta=delta)


Step = str | LLMResultChunk | Exception
Script = Sequence[Step] | Sequence[Sequence[Step]]


def scripted(script: Mapping[str, Script], *, by: str = "model") -> tuple[Call, list[str]]:
    """The end of a pipeline that plays a script, and the list of who was asked.

    `script` maps a field of the invocation (`by`: model, credential …) to what happens: texts and chunks are yielded,
    errors raised. A list of lists plays one list a call, and the last one from then on.
    """
    seen: list[str] = []
    turns: dict[str, int] = {}

    async def call(invocation: Invocation) -> Chunks:
        name = str(getattr(invocation, by))
        seen.append(name)
        turn = turns[name] = turns.get(name, -1) + 1
        steps: Any = script[name]
        if steps and isinstance(steps[0], list):
            steps = steps[min(turn, len(steps) - 1)]
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield chunk(step, model=invocation.model) if isinstance(step, str) else step

    return call, seen


# ------------------------------------------------------------------------------------------------ echo


class _EchoLLM(LargeLanguageModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        words = request.messages[-1].text.split(" ")
        for place, word in enumerate(words):
            yield chunk(word if place == 0 else f" {word}", model=model)
        yield last_chunk(sum(len(message.text.split()) for message in request.messages), len(words), model=model)


class _EchoEmbedding(TextEmbeddingModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        vectors = [[float(len(text)), float(text.count(" ")), 1.0] for text in request.texts]
        usage = EmbeddingUsage(tokens=len(vectors), total_tokens=len(vectors))
        yield TextEmbeddingResult(model=model, embeddings=vectors, usage=usage)


class _EchoRerank(RerankModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        wanted = set(request.query.lower().split())
        docs = [
            RerankDocument(index=place, text=text, score=float(len(wanted & set(text.lower().split()))))
            for place, text in enumerate(request.docs)
        ]
        yield RerankResult(model=model, docs=sorted(docs, key=lambda doc: -doc.score)[: request.top_n])


class _EchoSpeech2Text(Speech2TextModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        yield Speech2TextResult(model=model, text=f"{len(request.audio)} bytes of {request.filename}")


class _EchoTTS(TTSModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        for word in request.text.split():
            yield TTSResultChunk(model=model, audio=word.encode())
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


class _EchoModeration(ModerationModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        yield ModerationResult(model=model, verdicts=[_verdict("bad" in text) for text in request.texts])


def _verdict(flagged: bool) -> ModerationVerdict:
    return ModerationVerdict(flagged=flagged, categories={"hate": flagged}, category_scores={"hate": float(flagged)})


def echo_models(definition: ProviderDefinition) -> Mapping[ModelType, AnyModel]:
    """A builder for `Modelyard(builders={"echo": echo_models})`."""
    del definition
    models: list[AnyModel] = [
        _EchoLLM(),
        _EchoEmbedding(),
        _EchoRerank(),
        _EchoSpeech2Text(),
        _EchoTTS(),
        _EchoModeration(),
    ]
    return {model.model_type: model for model in models}


def echo_provider(name: str = "echo", *, pricing: PriceConfig | None = None) -> ProviderDefinition:
    """A provider that answers with what it was asked: one model of each type, named `echo`."""
    label = I18nObject(en_us=name)
    entity = ProviderEntity(
        provider=name,
        label=label,
        supported_model_types=list(ModelType),
        configurate_methods=[ConfigurateMethod.PREDEFINED_MODEL],
        models=[AIModelEntity(model="echo", label=label, model_type=kind, pricing=pricing) for kind in ModelType],
    )
    return ProviderDefinition(entity=entity, wire="echo")


# ------------------------------------------------------------------------------------------------ upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """The credential that was shown."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the upstream sends back. `pieces` are sent apart, `gap` seconds between them; then perhaps a fault."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    pieces: Sequence[bytes] | None = None
    gap: float = 0.0
    delay: float = 0.0
    """Seconds before the head."""
    fault: str = ""
    """`cut` closes before the end, `stall` sends no more, `hang_up` closes without a word, `raw` sends `body` as is."""


def json_answer(document: Any, *, status: int = 200, **headers: str) -> Answer:
    return Answer(
        status=status,
        headers={"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}},
        body=json.dumps(document).encode(),
    )


def error_answer(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Answer:
    return json_answer({"error": {"message": message, "type": "x", "code": code}}, status=status, **headers)


def chat_answer(text: str, *, model: str = "m", prompt: int = 7, completion: int = 3, **message: Any) -> Answer:
    return json_answer(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
    )


def chat_events(words: Iterable[str], *, model: str = "m", prompt: int = 7, done: bool = True) -> list[bytes]:
    """The events of a chat stream, each ready to be sent."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}
    texts = list(words)
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": text}, None) for text in texts]
    deltas.append(({}, "stop"))
    events: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": len(texts), "total_tokens": prompt + len(texts)}
    events.append({**head, "choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return [*lines, b"data: [DONE]\n\n"] if done else lines


def stream_answer(pieces: Sequence[bytes], *, gap: float = 0.0, fault: str = "") -> Answer:
    return Answer(headers={"content-type": "text/event-stream"}, pieces=pieces, gap=gap, fault=fault)


def embedding_answer(vectors: Sequence[Sequence[float]], *, model: str = "m") -> Answer:
    data = [{"object": "embedding", "index": at, "embedding": list(one)} for at, one in enumerate(vectors)]
    usage = {"prompt_tokens": len(vectors), "total_tokens": len(vectors)}
    return json_answer({"object": "list", "model": model, "data": data, "usage": usage})


Handler = Callable[[UpstreamRequest], Answer | Awaitable[Answer]]


class Upstream:
    """A provider on loopback. `handler` answers each request; `requests` remembers them all.

    It runs on a thread of its own, so that tests with and without asyncio use it alike:

        with Upstream(lambda request: chat_answer("hello")) as upstream:
            … upstream.url …
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[UpstreamRequest] = []
        self.cut_by_client = threading.Event()
        """Set when a client closes while it is being answered."""
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """With the path that base URLs end in."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._writers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._stopping = asyncio.Event()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._converse, sock=self._socket)
        await self._stopping.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                answer = self.handler(request)
                if not isinstance(answer, Answer):
                    answer = await answer
                if not await self._send(answer, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut_by_client.set()
        except asyncio.CancelledError:  # the upstream is stopping; asyncio's own callback would call that an error
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        """True where the connection may serve another request."""
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.fault == "hang_up":
            return False
        if answer.fault == "raw":
            writer.write(answer.body)
            await writer.drain()
            return False
        head = [f"HTTP/1.1 {answer.status} X"] + [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.pieces is None:
            head.append(f"content-length: {len(answer.body) + (100 if answer.fault == 'cut' else 0)}")
            writer.write("\r\n".join([*head, "", ""]).encode() + answer.body)
            await writer.drain()
        else:
            writer.write("\r\n".join([*head, "transfer-encoding: chunked", "", ""]).encode())
            for piece in answer.pieces:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
                if answer.gap:
                    await asyncio.sleep(answer.gap)
            if not answer.fault:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        if answer.fault == "stall":
            await asyncio.sleep(3600)
        return not answer.fault


async def _read_request(reader: asyncio.StreamReader) -> UpstreamRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return UpstreamRequest(method=method, path=path, headers=headers, body=body)


def floats(data: bytes) -> list[float]:
    """32-bit floats as `encoding_format: base64` carries them."""
    return array("f", data).tolist()
