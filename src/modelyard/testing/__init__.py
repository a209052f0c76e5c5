"""Test doubles, for this project's tests and for yours. The product itself uses none of
them.

- `FakeClock`: a clock that advances only on request.
- `scripted`: the end of a pipeline that answers from a script and records its calls.
- `echo_provider`: an in-process provider of all six model types, without a model.
- `Upstream`: a real HTTP server on loopback that acts as an OpenAI-compatible provider,
    with faults.
"""

import asyncio
import json
import socket
import ssl
import threading
from array import array
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
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
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.entities import AIModelEntity, I18nObject, PriceConfig
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import AssistantPromptMessage
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationVerdict,
)
from modelyard.models.provider import ConfigurateMethod, ProviderEntity
from modelyard.models.rerank import RerankDocument, RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import Chunks, Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call


class FakeClock:
    """A clock that advances only through `sleep` and `advance`."""

    def __init__(self, start_time: float = 1_000_000.0) -> None:
        self.now = start_time
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the fake time."""
        return self.now

    def time(self) -> float:
        """Return the fake time; the same as `monotonic`."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Advance the time without waiting, and record the duration."""
        self.slept.append(seconds)
        self.now += seconds
        # Lets other tasks run, as a real sleep would.
        await asyncio.sleep(0)


def chunk(text: str, *, model: str = "scripted") -> LLMResultChunk:
    """Return a chunk with text."""
    return LLMResultChunk(
        model=model,
        delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=text)),
    )


def last_chunk(
    prompt: int = 1, completion: int = 1, *, model: str = "scripted"
) -> LLMResultChunk:
    """Return the last chunk of a stream, with usage."""
    delta = LLMResultChunkDelta(
        finish_reason="stop", usage=LLMUsage.of(prompt, completion)
    )
    return LLMResultChunk(model=model, delta=delta)


Step = str | LLMResultChunk | Exception
Script = Sequence[Step] | Sequence[Sequence[Step]]


def scripted(
    script: Mapping[str, Script], *, by: str = "model"
) -> tuple[Call, list[str]]:
    """Return the end of a pipeline that plays a script, and the list of called names.

    `script` maps a field of the invocation (`by`: model, credential, …) to steps: texts
    and chunks are yielded, errors raised. With a list of lists, each call plays one
    list; the last one is repeated.
    """
    called_names: list[str] = []
    turns: dict[str, int] = {}

    async def call(invocation: Invocation) -> Chunks:
        """Play the steps for this invocation."""
        name = str(getattr(invocation, by))
        called_names.append(name)
        # Calls are counted per name, so that each deployment plays its own script.
        call_index = turns[name] = turns.get(name, -1) + 1
        steps: Any = script[name]
        if steps and isinstance(steps[0], list):
            steps = steps[min(call_index, len(steps) - 1)]
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield chunk(step, model=invocation.model) if isinstance(step, str) else step

    return call, called_names


# --------------------------------------------------------------------------------- echo


class _EchoLLM(LargeLanguageModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the last message word by word."""
        tokens = request.messages[-1].text.split(" ")
        for index, token in enumerate(tokens):
            # Chunks keep their leading space, so that joining them gives the original
            # text.
            yield chunk(token if index == 0 else f" {token}", model=model)
        yield last_chunk(
            sum(len(message.text.split()) for message in request.messages),
            len(tokens),
            model=model,
        )


class _EchoEmbedding(TextEmbeddingModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        """Yield vectors of text length, number of spaces and 1."""
        vectors = [
            [float(len(text)), float(text.count(" ")), 1.0] for text in request.texts
        ]
        usage = EmbeddingUsage(tokens=len(vectors), total_tokens=len(vectors))
        yield TextEmbeddingResult(model=model, embeddings=vectors, usage=usage)


class _EchoRerank(RerankModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        """Yield the documents ordered by how many words they share with the query."""
        query_terms = set(request.query.lower().split())
        docs = [
            RerankDocument(
                index=index,
                text=text,
                score=float(len(query_terms & set(text.lower().split()))),
            )
            for index, text in enumerate(request.docs)
        ]
        yield RerankResult(
            model=model, docs=sorted(docs, key=lambda doc: -doc.score)[: request.top_n]
        )


class _EchoSpeech2Text(Speech2TextModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        """Yield a transcript that states the size of the recording."""
        yield Speech2TextResult(
            model=model, text=f"{len(request.audio)} bytes of {request.filename}"
        )


class _EchoTTS(TTSModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        """Yield each word's bytes as audio, then the usage."""
        for token in request.text.split():
            yield TTSResultChunk(model=model, audio=token.encode())
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


class _EchoModeration(ModerationModel):
    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        """Flag texts that contain "bad"."""
        yield ModerationResult(
            model=model, verdicts=[_verdict("bad" in text) for text in request.texts]
        )


def _verdict(flagged: bool) -> ModerationVerdict:
    """Return a verdict in one category."""
    return ModerationVerdict(
        flagged=flagged,
        categories={"hate": flagged},
        category_scores={"hate": float(flagged)},
    )


def echo_models(definition: ProviderDefinition) -> Mapping[ModelType, AnyModel]:
    """Builder for `Modelyard(builders={"echo": echo_models})`."""
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


def echo_provider(
    name: str = "echo", *, pricing: PriceConfig | None = None
) -> ProviderDefinition:
    """Return a provider that answers with its input: one model per type, named `echo`."""
    label = I18nObject(en_us=name)
    entity = ProviderEntity(
        provider=name,
        label=label,
        supported_model_types=list(ModelType),
        configurate_methods=[ConfigurateMethod.PREDEFINED_MODEL],
        models=[
            AIModelEntity(
                model="echo", label=label, model_type=model_type, pricing=pricing
            )
            for model_type in ModelType
        ],
    )
    return ProviderDefinition(entity=entity, wire="echo")


# ----------------------------------------------------------------------------- upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """A request that the upstream received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        """The bearer credential of the request."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


_HELD_SECONDS = 60.0
"""How long a response is held at most, so that a test that has failed ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of the upstream. `pieces` are sent separately, `gap` seconds apart,
    optionally followed by a fault."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    pieces: Sequence[bytes] | None = None
    gap: float = 0.0
    delay: float = 0.0
    """Seconds before the response head."""
    held_until: threading.Event | None = None
    """The response is sent when this is set: a test decides when, not a clock."""
    fault: str = ""
    """`cut` closes before the end, `stall` stops sending, `hang_up` closes without a
    response, `raw` sends `body` unchanged."""


def json_answer(document: Any, *, status: int = 200, **headers: str) -> Answer:
    """Return a JSON response. Underscores in header names become hyphens."""
    sent_headers = {"content-type": "application/json"}
    for name, value in headers.items():
        sent_headers[name.replace("_", "-")] = value
    body = json.dumps(document).encode()
    return Answer(status=status, headers=sent_headers, body=body)


def error_answer(
    status: int, message: str = "no", *, code: str | None = None, **headers: str
) -> Answer:
    """Return an error response in OpenAI's format."""
    return json_answer(
        {"error": {"message": message, "type": "x", "code": code}},
        status=status,
        **headers,
    )


def chat_answer(
    text: str, *, model: str = "m", prompt: int = 7, completion: int = 3, **message: Any
) -> Answer:
    """Return a chat completion in OpenAI's format. Extra arguments are fields of the
    message."""
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
                    "finish_reason": "tool_calls"
                    if message.get("tool_calls")
                    else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
    )


def chat_events(
    text_chunks: Iterable[str],
    *,
    model: str = "m",
    prompt: int = 7,
    sends_done: bool = True,
) -> list[bytes]:
    """Return the server-sent events of a chat stream. `sends_done` appends the final
    `[DONE]`."""
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
    }
    texts = list(text_chunks)
    # OpenAI's order: the role first, then the text, then the finish reason, then the
    # usage.
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None)
    ]
    deltas += [({"content": text}, None) for text in texts]
    deltas.append(({}, "stop"))
    events: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": len(texts),
        "total_tokens": prompt + len(texts),
    }
    events.append({**head, "choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return [*lines, b"data: [DONE]\n\n"] if sends_done else lines


def stream_answer(
    chunks: Sequence[bytes], *, gap: float = 0.0, fault: str = ""
) -> Answer:
    """Return a streamed response of server-sent events."""
    headers = {"content-type": "text/event-stream"}
    return Answer(headers=headers, pieces=chunks, gap=gap, fault=fault)


def embedding_answer(vectors: Sequence[Sequence[float]], *, model: str = "m") -> Answer:
    """Return an embeddings response in OpenAI's format."""
    data = [
        {"object": "embedding", "index": index, "embedding": list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": len(vectors), "total_tokens": len(vectors)}
    return json_answer({"object": "list", "model": model, "data": data, "usage": usage})


Handler = Callable[[UpstreamRequest], Answer | Awaitable[Answer]]


class Upstream:
    """A provider on loopback. `handler` answers each request; `requests` remembers them all.

    It runs on a thread of its own, so that tests with and without asyncio use it alike:

        with Upstream(lambda request: chat_answer("hello")) as upstream:
            … upstream.url …
    """

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        """With `tls` the server speaks HTTPS."""
        self.handler = handler
        self._tls = tls
        self.requests: list[UpstreamRequest] = []
        self.cut_by_client = threading.Event()
        """Set when a client closes the connection while it is being answered."""
        self._loop = asyncio.new_event_loop()
        # Bound here, so that the URL is known before the thread starts.
        self._socket = socket.create_server(("127.0.0.1", 0))
        # The pieces of a stream are not to wait for the client's confirmations.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The base URL, with the path `/v1`."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._writers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        """Run the event loop of the server's thread."""
        asyncio.set_event_loop(self._loop)
        # Created in the thread, because events belong to a loop.
        self._stopping = asyncio.Event()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        """Serve until `_stopping` is set, then end all connections."""
        server = await asyncio.start_server(
            self._handle_connection, sock=self._socket, ssl=self._tls
        )
        await self._stopping.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        # Handlers that wait, for example in a stall, must not delay the test.
        tasks = [
            task for task in asyncio.all_tasks() if task is not asyncio.current_task()
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests of one connection."""
        self._writers.add(writer)
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                answer = self.handler(request)
                # Handlers may be asynchronous.
                if not isinstance(answer, Answer):
                    answer = await answer
                if not await self._send(answer, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut_by_client.set()
        except asyncio.CancelledError:
            # The upstream is stopping; asyncio's own callback would report an error.
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        """Send a response. Returns True if the connection can serve another request."""
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.held_until is not None:
            await asyncio.to_thread(answer.held_until.wait, _HELD_SECONDS)
        if answer.fault == "hang_up":
            return False
        if answer.fault == "raw":
            writer.write(answer.body)
            await writer.drain()
            return False
        if answer.pieces is None:
            # `cut` announces 100 bytes more than are sent.
            missing_bytes = 100 if answer.fault == "cut" else 0
            body_length = len(answer.body) + missing_bytes
            head = _response_head(answer, f"content-length: {body_length}")
            writer.write(head + answer.body)
            await writer.drain()
        else:
            writer.write(_response_head(answer, "transfer-encoding: chunked"))
            await _send_chunks(answer, answer.pieces, writer)
        if answer.fault == "stall":
            await asyncio.sleep(3600)
        return not answer.fault


def _response_head(answer: Answer, body_header: str) -> bytes:
    """Return the status line and the headers of a response, with `body_header`, which
    announces the body, as the last one."""
    headers = [f"{name}: {value}" for name, value in answer.headers.items()]
    lines = [f"HTTP/1.1 {answer.status} X", *headers, body_header, "", ""]
    return "\r\n".join(lines).encode()


async def _send_chunks(
    answer: Answer, chunks: Iterable[bytes], writer: asyncio.StreamWriter
) -> None:
    """Send a chunked body, with the pauses of the response."""
    for body_chunk in chunks:
        writer.write(f"{len(body_chunk):x}\r\n".encode() + body_chunk + b"\r\n")
        await writer.drain()
        if answer.gap:
            await asyncio.sleep(answer.gap)
    # The last chunk is missing for a fault: the client sees an incomplete stream.
    if not answer.fault:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> UpstreamRequest | None:
    """Read one request, or None if the connection was closed between requests."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return UpstreamRequest(method=method, path=path, headers=headers, body=body)


def floats(data: bytes) -> list[float]:
    """Decode 32-bit floats as sent with `encoding_format: base64`."""
    return array("f", data).tolist()
