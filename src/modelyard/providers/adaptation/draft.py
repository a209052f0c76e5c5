"""A chat request on its way to a target: what the rules read, change and report."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from modelyard.base.json_types import is_object
from modelyard.models.capabilities import Capabilities
from modelyard.models.entities import AIModelEntity
from modelyard.models.llm import LLMRequest, LLMResultChunk


def fields_of(extra: Mapping[str, Any], format: str) -> dict[str, Any]:
    """Return the fields of one format in the `extra` of a request, message or part."""
    fields: Any = extra.get(format)
    return fields if is_object(fields) else {}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is sent to."""

    format: str
    """The wire format's own name, as in `LLMRequest.format`."""
    model: str
    capabilities: Capabilities
    schema: AIModelEntity | None
    """The model's entry in the catalogue; None if it is not listed."""
    parameters: frozenset[str]
    """The model parameters that the format can express."""
    provider: str = ""
    """The provider's name."""


class Restorer(Protocol):
    """Changes the chunks of one answer back to what the caller expects."""

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk as the caller expects it."""
        ...

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return what was held back, at the end of the answer."""
        ...


# The names of parameters in formats that have others than ours.
_CALLER_NAMES: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "stop": "stop_sequences",
        "thinking_budget": "thinking",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "user": "metadata.user_id",
    },
    "gemini": {
        "stop": "stopSequences",
        "thinking_budget": "thinkingBudget",
        "reasoning_effort": "thinkingLevel",
        "include_thoughts": "includeThoughts",
        "response_format": "responseMimeType",
        "top_p": "topP",
        "top_k": "topK",
        "max_tokens": "maxOutputTokens",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
        "n": "candidateCount",
        "logprobs": "responseLogprobs",
        "top_logprobs": "logprobs",
        "modalities": "responseModalities",
        "service_tier": "serviceTier",
    },
    "cohere": {
        "stop": "stop_sequences",
        "top_p": "p",
        "top_k": "k",
        "thinking_budget": "thinking",
        "strict": "strict_tools",
    },
    "openai_responses": {
        "max_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning.effort",
        "include_thoughts": "reasoning.summary",
        "response_format": "text.format",
        "verbosity": "text.verbosity",
    },
}


def caller_name(format: str, name: str) -> str:
    """Return the name of a parameter in a format."""
    return _CALLER_NAMES.get(format, {}).get(name, name)


@dataclass(slots=True)
class Draft:
    """A request that rules adapt one after the other."""

    request: LLMRequest
    target: Target
    dropped: list[str] = field(default_factory=list[str])
    """Names of the caller's fields that are left out, in the words of its format."""
    restorers: list[Callable[[], Restorer]] = field(
        default_factory=list[Callable[[], Restorer]]
    )
    """Each builds a restorer of one answer."""
    removes_thoughts: bool = False
    """Whether thoughts of another vendor are left out."""
    original: LLMRequest = field(init=False)
    """The request as the caller sent it."""

    def __post_init__(self) -> None:
        self.original = self.request

    @property
    def is_same_format(self) -> bool:
        """Whether the caller speaks the target's format."""
        return self.request.format == self.target.format

    @property
    def target_extra(self) -> dict[str, Any]:
        """The request's fields that only the target's format has."""
        return fields_of(self.request.extra, self.target.format)

    def change(self, **fields: Any) -> None:
        """Replace fields of the request."""
        self.request = msgspec.structs.replace(self.request, **fields)

    def change_parameters(self, **parameters: Any) -> None:
        """Set some model parameters."""
        self.change(model_parameters={**self.request.model_parameters, **parameters})

    def change_extra(self, **fields: Any) -> None:
        """Set some fields that only the target's format has; None removes one."""
        merged = {**self.target_extra, **fields}
        kept = {name: value for name, value in merged.items() if value is not None}
        self.change(extra={**self.request.extra, self.target.format: kept})

    def remove_parameter(self, name: str) -> None:
        """Remove a model parameter that another one replaces, without a report."""
        parameters = dict(self.request.model_parameters)
        if name in parameters:
            del parameters[name]
            self.change(model_parameters=parameters)

    def drop(self, name: str) -> None:
        """Report a field that is left out or changed; the rule has removed it, or the
        format's writer will. A parameter is named as the caller's format names it."""
        name = caller_name(self.request.format, name)
        if name not in self.dropped:
            self.dropped.append(name)

    def drop_parameter(self, name: str) -> None:
        """Remove a model parameter and report it. Without effect if there is none."""
        parameters = dict(self.request.model_parameters)
        if parameters.pop(name, None) is not None:
            self.change(model_parameters=parameters)
            self.drop(name)
