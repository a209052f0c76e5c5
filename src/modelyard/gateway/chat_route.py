"""The route of a chat API whose body names the model: Anthropic's and Cohere's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from modelyard.base.clock import Clock
from modelyard.base.fields import required_field
from modelyard.gateway.chat_response import (
    complete_reply,
    complete_response,
    prepare_request,
    stream_response,
)
from modelyard.gateway.direct import AnswerFormat, DirectChat
from modelyard.gateway.http import Reply, Request, StreamReply, read_json
from modelyard.models.llm import LLMRequest
from modelyard.models.streams import StreamDumper
from modelyard.models.tokens import rough_tokens
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.model_manager import ModelManager


@dataclass(frozen=True, slots=True)
class ChatRoute:
    """Answers a chat, complete or streamed."""

    manager: ModelManager
    clock: Clock
    parse: Callable[[JSON], LLMRequest]
    """Reads the request. Raises InvokeBadRequestError."""
    make: Callable[..., StreamDumper]
    """Builds the dumper of a stream from id, time and model."""
    format: AnswerFormat
    wire_format: str
    """Name of the wire format of the requests."""
    begins_with_usage: bool = False
    """Whether a stream begins with the number of input tokens. The dumper then gets
    `estimate_input`, since most providers report it at the end."""

    def read_direct(self, body: bytes) -> DirectChat:
        """Read a request that is answered straight from the protocol class."""
        document = read_json(body)
        request = self.parse(document)
        name = required_field(document, "model", str)
        return DirectChat(name, request, self.format, self._make_for(request))

    def _make_for(self, request: LLMRequest) -> Callable[..., StreamDumper]:
        """Return what builds the dumper of a request's stream."""
        if not self.begins_with_usage:
            return self.make
        return partial(self.make, estimate_input=partial(rough_tokens, request))

    async def __call__(self, request: Request) -> Reply | StreamReply:
        """Answer a chat request in its own format, as a stream if it asks for one."""
        body = await request.json()
        # Parse the body before looking the model up, so that format errors are reported
        # first.
        chat_request = self.parse(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.LLM
        )
        chat_request, headers = prepare_request(request, instance, chat_request)
        answer_format = self.format
        if chat_request.stream:
            return stream_response(
                request,
                instance,
                chat_request,
                self.clock,
                self._make_for(chat_request),
                prefix=answer_format.prefix,
                frame=answer_format.frame,
                shape=answer_format.shape,
                headers=headers,
                last=answer_format.last,
            )
        result = await complete_response(
            request, instance, chat_request, self.clock, prefix=answer_format.prefix
        )
        return complete_reply(
            request,
            answer_format.dump(result),
            result,
            answer_format.shape,
            headers,
            self.wire_format,
        )
