"""What the stand-ins for all vendors have in common."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer, stream_answer
from tests.stand_ins.prompt_cache import CacheUse
from tests.stand_ins.session import Answer, Conversation, Session


class Refusal(Exception):
    """A request that the vendor refuses. `fields` are further fields of the error."""

    def __init__(self, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields


def refuse_if(condition: object, message: str, **fields: Any) -> None:
    """Raise Refusal if the condition holds."""
    if condition:
        raise Refusal(message, **fields)


class StandIn:
    """A vendor's API: checks each request, and lets the session answer it."""

    vendor = ""
    overflow = ""
    """How the vendor says that a request exceeds the context of the model."""
    overflow_code = ""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.refusals: list[str] = []
        self.requests = 0
        self.overflows = 0
        """How many requests were refused because the context was full."""
        self.cache_use = CacheUse()
        self.output_tokens = 0
        self._calls = 0

    def handle(self, request: UpstreamRequest) -> HttpAnswer:
        """Answer a request."""
        if (other := self.other_path(request)) is not None:
            return other
        try:
            body = request.json if request.body else {}
            self.check(request, body)
            conversation = self.conversation(request, body)
            conversation.body = request.body.decode()
        except Refusal as refusal:
            self.refusals.append(str(refusal))
            return self.error(refusal)
        if self.session.is_too_long(conversation):
            self.overflows += 1
            return self.error(Refusal(self.overflow, code=self.overflow_code))
        self.requests += 1
        answer = self.session.answer(conversation)
        use = self.cached(request, body)
        self.cache_use.add(use)
        output = len(answer.text + answer.thinking + str(answer.calls)) // 4 + 1
        self.output_tokens += output
        if answer.context_tokens:
            use = replace(use, total=answer.context_tokens)
        rendered = self.render(request, body, answer, use, output)
        return _broken(rendered) if answer.is_cut else rendered

    def other_path(self, request: UpstreamRequest) -> HttpAnswer | None:
        """Return the answer to a request that is no call of a model, or None."""
        del request

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal if the vendor refuses this request."""
        raise NotImplementedError

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return a request in no vendor's format."""
        raise NotImplementedError

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what the prompt cache reads of a request."""
        raise NotImplementedError

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return an answer in the vendor's format."""
        raise NotImplementedError

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return a refusal in the vendor's format."""
        raise NotImplementedError

    def sign(self, text: str) -> str:
        """Return the signature of a thought, which this vendor alone issues."""
        return hashlib.sha256(f"{self.vendor}: {text}".encode()).hexdigest()

    def new_id(self, prefix: str) -> str:
        """Return an id that no other object has."""
        self._calls += 1
        return f"{prefix}{self._calls:08d}"


def _broken(answer: HttpAnswer) -> HttpAnswer:
    """Return a stream that ends in the middle, without the end of its connection's
    protocol; an answer in one piece as it is."""
    if answer.pieces is None:
        return answer
    pieces = answer.pieces[: max(1, len(answer.pieces) // 2)]
    return replace(answer, pieces=pieces, fault="cut")


def compact(document: Any) -> str:
    """Return a document as JSON without blanks."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def pieces_of(text: str, size: int = 7) -> Iterable[str]:
    """Yield a text in pieces, as a stream has it."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def events_answer(documents: Iterable[Any], *ends: bytes) -> HttpAnswer:
    """Return a stream of server-sent events, named by `type` if they have one, cut at
    places that are no borders of events or characters."""
    lines = [
        (f"event: {each['type']}\n" if "type" in each else "").encode()
        + f"data: {compact(each)}\n\n".encode()
        for each in documents
    ]
    content = b"".join([*lines, *ends])
    return stream_answer(list(_cut(content, (211, 89, 1021))))


def _cut(content: bytes, sizes: Sequence[int]) -> Iterable[bytes]:
    """Yield the content in pieces of these sizes in turn."""
    start = number = 0
    while start < len(content):
        size = sizes[number % len(sizes)]
        yield content[start : start + size]
        start, number = start + size, number + 1


def error_document(refusal: Refusal, **fields: Any) -> HttpAnswer:
    """Return an error document with the status of a refusal."""
    return json_answer(fields, status=refusal.status)
