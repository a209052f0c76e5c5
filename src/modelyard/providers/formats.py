"""The wire formats by name: the paths of their calls, and the functions that translate
them.

A format consists of its module in `wire/` and one row here. Paths are relative to the
provider's base URL; `{model}` and fields of the credential are filled in. A provider
file can override them under `paths`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from modelyard.base.call_headers import CallHeaders, HeaderRules
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.passthrough import PassthroughFormat
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.streams import StreamParser
from modelyard.models.types import JSON
from modelyard.models.vendor_headers import rules_of
from modelyard.wire import (
    anthropic,
    bedrock,
    cohere,
    cohere_retrieval,
    dashscope,
    dashscope_rerank,
    gemini,
    gemini_embeddings,
    ollama,
    ollama_embeddings,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_passthrough,
    openai_rerank,
    openai_responses,
    tei,
)

Framing = Literal["sse", "lines", "aws"]


def _no_betas(model: str, headers: CallHeaders) -> tuple[str, ...]:
    """Return nothing: the format has no place for beta names."""
    del model, headers
    return ()


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A wire format for chat models."""

    name: str
    """The name that the format's module uses for itself, for example in `extra`."""
    path: str
    stream_path: str
    framing: Framing
    parameters: frozenset[str]
    dump_request: Callable[[LLMRequest, str, Capabilities], JSON]
    parse_result: Callable[[JSON], LLMResult]
    parser: Callable[[], StreamParser]
    headers: Mapping[str, str]
    """Headers of every call in this format."""
    stream_headers: Mapping[str, str]
    """Additional headers of a streaming call."""
    count_path: str = ""
    """Path of the token counting call; empty if the format has none."""
    passing: PassthroughFormat | None = None
    """Passes requests of the same format through unparsed; None if the format does not
    support it."""
    betas: Callable[[str, CallHeaders], Collection[str]] = _no_betas
    """(model, headers of the caller and the provider file) → Anthropic's beta names
    that are sent."""

    @property
    def header_rules(self) -> HeaderRules:
        """The headers that the vendor's API has."""
        return rules_of(self.name)


def _chat_format(
    module: ModuleType,
    path: str,
    *,
    stream: str = "",
    framing: Framing = "sse",
    count: str = "",
    headers: Mapping[str, str] | None = None,
    stream_headers: Mapping[str, str] | None = None,
    passing: PassthroughFormat | None = None,
    betas: Callable[[str, CallHeaders], Collection[str]] = _no_betas,
) -> ChatFormat:
    """Return the chat format that a module in `wire/` implements.

    `stream` is the path of streamed calls if it differs from `path`; `count` is that of
    the token counter, empty if there is none.
    """
    return ChatFormat(
        module.FORMAT,
        path,
        # Most formats stream at the same path.
        stream or path,
        framing,
        module.PARAMETERS,
        module.dump_request,
        module.parse_result,
        module.StreamParser,
        headers or {},
        stream_headers or {},
        count,
        passing,
        betas,
    )


# The paths are those of the vendors' own references.
CHAT: Mapping[str, ChatFormat] = {
    # The key is the name in provider files, which may differ from the module's own.
    "openai": _chat_format(
        openai_chat, "/chat/completions", passing=openai_passthrough.PASSING
    ),
    "openai_responses": _chat_format(openai_responses, "/responses"),
    "openai_completions": _chat_format(openai_completions, "/completions"),
    "anthropic": _chat_format(
        anthropic,
        "/v1/messages",
        count="/v1/messages/count_tokens",
        headers={"anthropic-version": "2023-06-01"},
        betas=anthropic.sent_betas,
    ),
    "gemini": _chat_format(
        gemini,
        "/models/{model}:generateContent",
        stream="/models/{model}:streamGenerateContent?alt=sse",
        count="/models/{model}:countTokens",
    ),
    "bedrock": _chat_format(
        bedrock,
        "/model/{model}/converse",
        stream="/model/{model}/converse-stream",
        framing="aws",
        betas=bedrock.sent_betas,
    ),
    "cohere": _chat_format(cohere, "/v2/chat"),
    "ollama": _chat_format(ollama, "/api/chat", framing="lines"),
    "dashscope": _chat_format(
        # DashScope selects streaming by a header.
        dashscope,
        "/services/aigc/text-generation/generation",
        stream_headers={"x-dashscope-sse": "enable"},
    ),
}


@dataclass(frozen=True, slots=True)
class EmbeddingFormat:
    """A wire format for embedding models."""

    path: str
    dump_request: Callable[[TextEmbeddingRequest, str, Capabilities], JSON]
    parse_result: Callable[[Any, TextEmbeddingRequest], TextEmbeddingResult]


# The keys are the names in provider files.
EMBEDDING: Mapping[str, EmbeddingFormat] = {
    "openai": EmbeddingFormat(
        "/embeddings", openai_embeddings.dump_request, openai_embeddings.parse_result
    ),
    "cohere": EmbeddingFormat(
        "/v2/embed",
        cohere_retrieval.dump_embed_request,
        cohere_retrieval.parse_embed_result,
    ),
    "gemini": EmbeddingFormat(
        "/models/{model}:batchEmbedContents",
        gemini_embeddings.dump_request,
        gemini_embeddings.parse_result,
    ),
    "ollama": EmbeddingFormat(
        "/api/embed", ollama_embeddings.dump_request, ollama_embeddings.parse_result
    ),
    "tei": EmbeddingFormat("/embed", tei.dump_embed_request, tei.parse_embed_result),
}


@dataclass(frozen=True, slots=True)
class RerankFormat:
    """A wire format for rerank models."""

    path: str
    dump_request: Callable[[RerankRequest, str, Capabilities], JSON]
    parse_result: Callable[[Any, RerankRequest], RerankResult]


# Cohere's path is that of its second version.
RERANK: Mapping[str, RerankFormat] = {
    "openai": RerankFormat(
        "/rerank", openai_rerank.dump_request, openai_rerank.parse_result
    ),
    "cohere": RerankFormat(
        "/v2/rerank",
        cohere_retrieval.dump_rerank_request,
        cohere_retrieval.parse_rerank_result,
    ),
    "tei": RerankFormat("/rerank", tei.dump_rerank_request, tei.parse_rerank_result),
    "dashscope": RerankFormat(
        "/services/rerank/text-rerank/text-rerank",
        dashscope_rerank.dump_request,
        dashscope_rerank.parse_result,
    ),
}


# Wire formats for moderation models.
MODERATION = ("openai",)
