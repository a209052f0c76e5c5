"""How providers word their errors: their codes, and exact phrases where a provider has no
code.

This is the only table of them. A code decides before a phrase. Phrases are whole wordings
of a provider, never single words, since "too long" may be said of a text as well as of a
conversation. Each phrase has a recorded error body in `tests/data/provider_errors.yaml`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.base.errors import (
    ContentFilterError,
    ContextTooLongError,
    EndpointNotFoundError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    MalformedToolCallError,
    ModelNotFoundError,
    QuotaExhaustedError,
    StringTooLongError,
)

STATUS_ERRORS: Mapping[int, type[InvokeError]] = {
    401: InvokeAuthorizationError,
    402: QuotaExhaustedError,  # the credential's account has no credit
    403: InvokeAuthorizationError,
    405: EndpointNotFoundError,
    407: InvokeAuthorizationError,
    408: InvokeServerUnavailableError,
    425: InvokeServerUnavailableError,
    429: InvokeRateLimitError,
    498: InvokeServerUnavailableError,  # Groq: no capacity in this tier
    501: EndpointNotFoundError,
}
"""Statuses whose meaning is not that of their hundred. 404 depends on the body."""

# Codes and types of all vendors. One table is enough: they do not collide.
CODE_ERRORS: Mapping[str, type[InvokeError]] = {
    code: error_class
    for error_class, codes in {
        InvokeBadRequestError: (
            "invalid_request_error invalid_request INVALID_ARGUMENT FAILED_PRECONDITION"
            " ValidationException InvalidParameter not_found_error request_too_large"
            " OUT_OF_RANGE BadRequestError NotFoundError conflict_error"
            " resource_not_found_error"
        ),
        ContextTooLongError: (
            "context_length_exceeded exceed_context_size_error"
            " model_max_prompt_tokens_exceeded"
        ),
        StringTooLongError: "string_above_max_length string_too_long",
        ModelNotFoundError: (
            "model_not_found ModelNotFound DeploymentNotFound model_decommissioned"
            " model_deprecated model_not_available model_not_supported unknown_model"
            " invalid_model NOT_FOUND ResourceNotFoundException"
        ),
        ContentFilterError: (
            "content_filter content_policy_violation DataInspectionFailed"
            " data_inspection_failed ResponsibleAIPolicyViolation moderation_blocked"
        ),
        InvokeAuthorizationError: (
            "authentication_error permission_error UNAUTHENTICATED PERMISSION_DENIED"
            " AccessDeniedException UnrecognizedClientException ExpiredTokenException"
            " InvalidApiKey invalid_api_key AccessDenied"
        ),
        QuotaExhaustedError: (
            "insufficient_quota insufficient_credits billing_error Arrearage"
            " billing_hard_limit_reached exceeded_current_quota_error"
            " AllocationQuota.FreeTierOnly credit_limit"
        ),
        InvokeRateLimitError: (
            "rate_limit_error rate_limit_exceeded tokens requests RESOURCE_EXHAUSTED"
            " ThrottlingException ServiceQuotaExceededException Throttling"
            " Throttling.RateQuota Throttling.AllocationQuota too_many_requests"
        ),
        InvokeServerUnavailableError: (
            "overloaded_error api_error server_error internal_error timeout_error"
            " INTERNAL UNAVAILABLE DEADLINE_EXCEEDED InternalServerException"
            " ServiceUnavailableException ModelTimeoutException"
            " ModelStreamErrorException ModelErrorException ModelNotReadyException"
            " InternalError InternalServerError engine_overloaded_error"
            " service_tier_capacity_exceeded capacity_exceeded"
        ),
        MalformedToolCallError: "tool_use_failed MALFORMED_FUNCTION_CALL",
    }.items()
    for code in codes.split()
}

GENERAL_ERRORS: frozenset[type[InvokeError]] = frozenset(
    {
        InvokeBadRequestError,
        InvokeAuthorizationError,
        InvokeRateLimitError,
        InvokeServerUnavailableError,
        EndpointNotFoundError,
    }
)
"""Classes that a phrase may make more exact. The others are exact already."""

_REQUEST = frozenset({InvokeBadRequestError, EndpointNotFoundError})
# Servers of one's own report overflow and bad tool calls with status 500 or none.
_REQUEST_OR_SERVER = _REQUEST | {InvokeServerUnavailableError}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A provider's wording of an error."""

    name: str
    error: type[InvokeError]
    pattern: str
    """Regular expression, without regard to case. The groups `input`, `output`, `total`
    and `limit` are numbers of tokens."""
    instead_of: frozenset[type[InvokeError]] = _REQUEST_OR_SERVER
    """Classes, by status and code, that the phrase makes more exact."""
    expression: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        expression = re.compile(self.pattern, re.IGNORECASE | re.DOTALL)
        # The class is frozen, so a derived field has to be set through `object`.
        object.__setattr__(self, "expression", expression)


def _overflow(name: str, pattern: str) -> Phrase:
    """Return a wording of a context overflow; N stands for a number."""
    return Phrase(name, ContextTooLongError, pattern.replace(r"N)", r"[\d,]+)"))


_OVERFLOWS = (
    _overflow(
        "openai-parts",
        r"maximum context length is (?P<limit>N) tokens\. However, you requested"
        r" (?:about )?(?P<total>N) tokens \((?P<input>N) (?:in the messages|of text"
        r" input)[^)]*?,? (?P<output>N) in the (?:completion|output)",
    ),
    _overflow(
        "openai-messages",
        r"maximum context length is (?P<limit>N) tokens\. However, your messages"
        r" resulted in (?P<input>N) tokens",
    ),
    _overflow("openai-input", r"input exceeds the context window of this model"),
    _overflow(
        "vllm-output-too-large",
        r"maximum context length is (?P<limit>N) tokens and your request has"
        r" (?P<input>N) input tokens \((?P<output>N) >",
    ),
    _overflow(
        "vllm-output-and-prompt",
        r"maximum context length is (?P<limit>N) tokens\. However, you requested"
        r" (?P<output>N) output tokens and your prompt contains at least"
        r" (?P<input>N) input tokens",
    ),
    _overflow(
        "vllm-input",
        r"maximum context length is (?P<limit>N) tokens\. However, your request has"
        r" (?P<input>N) input tokens",
    ),
    _overflow(
        "vllm-requested",
        r"maximum context length is (?P<limit>N) tokens\. However, you requested"
        r" (?:about )?(?P<total>N) tokens",
    ),
    _overflow(
        "vllm-total",
        r"exceeds the model's maximum context length of (?P<limit>N) tokens\. You"
        r" requested a total of (?P<total>N) tokens: (?P<input>N) tokens from the"
        r" input messages and (?P<output>N) tokens for the completion",
    ),
    _overflow(
        "vllm-decoder",
        r"decoder prompt \(length (?P<input>N)\) is longer than the maximum model"
        r" length of (?P<limit>N)",
    ),
    _overflow(
        "sglang",
        r"the input \((?P<input>N) tokens\) is longer than the model's context length"
        r" \((?P<limit>N) tokens\)",
    ),
    _overflow(
        "llama-cpp-numbers",
        r"request \((?P<input>N) tokens\) exceeds the available context size"
        r" \((?P<limit>N) tokens\)",
    ),
    _overflow("llama-cpp", r"request exceeds the available context size"),
    _overflow(
        "lm-studio",
        r"keep the first (?P<input>N) tokens when context the overflows\. However, the"
        r" model is loaded with context length of only (?P<limit>N) tokens",
    ),
    _overflow("ollama", r"input length exceeds the (?:maximum )?context length"),
    _overflow(
        "xai",
        r"maximum prompt length is (?P<limit>N) but the request contains"
        r" (?P<input>N) tokens",
    ),
    _overflow(
        "mistral",
        r"Prompt contains (?P<input>N) tokens.{0,40}too large for model with"
        r" (?P<limit>N) maximum context length",
    ),
    _overflow(
        "anthropic",
        r"prompt is too long: (?P<input>N) tokens > (?P<limit>N) maximum",
    ),
    _overflow(
        "anthropic-output",
        r"input length and `max_tokens` exceed context limit: (?P<input>N) \+"
        r" (?P<output>N) > (?P<limit>N)",
    ),
    _overflow(
        "bedrock-titan",
        r"Too many input tokens\. Max input tokens: (?P<limit>N), request input token"
        r" count: (?P<input>N)",
    ),
    _overflow("bedrock-claude", r"Input is too long for requested model"),
    _overflow(
        "gemini",
        r"input token count \((?P<input>N)\) exceeds the maximum number of tokens"
        r" allowed \((?P<limit>N)\)",
    ),
    _overflow(
        "gemini-limit",
        r"input token count exceeds the maximum number of tokens allowed"
        r" \(?(?P<limit>N)",
    ),
    _overflow(
        "cohere",
        r"number of tokens in the prompt cannot exceed (?P<limit>N) - received"
        r" (?P<input>N)",
    ),
    _overflow(
        "tgi",
        r"`inputs` tokens \+ `max_new_tokens` must be <= (?P<limit>N)\. Given:"
        r" (?P<input>N) `inputs` tokens and (?P<output>N) `max_new_tokens`",
    ),
    _overflow(
        "tei",
        r"`inputs` must have less than (?P<limit>N) tokens\. Given: (?P<input>N)",
    ),
    _overflow("dashscope", r"Range of input length should be \[\d+, (?P<limit>N)\]"),
    _overflow(
        "fireworks",
        r"prompt is too long: (?P<input>N), model maximum context length: (?P<limit>N)",
    ),
    _overflow(
        "local",
        r"The request has (?P<input>N) tokens; the model's context is limited to"
        r" (?P<limit>N)",
    ),
    _overflow(
        "copilot",
        r"prompt token count of (?P<input>N) exceeds the limit of (?P<limit>N)",
    ),
)

_NUMBER_LIMITED = (
    Phrase(
        "openai-string",
        StringTooLongError,
        r"string too long\. Expected a string with maximum length \d+",
    ),
    Phrase(
        "anthropic-string",
        StringTooLongError,
        r"String should have at most \d+ characters",
    ),
)

_MODELS = (
    Phrase(
        "openai-model",
        ModelNotFoundError,
        r"^The model [`'\"].{1,200}[`'\"] (?:does not exist|has been deprecated)",
        _REQUEST | {InvokeAuthorizationError},
    ),
    Phrase("anthropic-model", ModelNotFoundError, r"^model: \S+$", _REQUEST),
    Phrase(
        "google-model",
        ModelNotFoundError,
        r"(?:^models/\S+ is not (?:found|supported)|Publisher Model `.{1,300}` (?:was"
        r" not found|not found)|^This model models/\S+ is no longer available)",
    ),
    Phrase(
        "bedrock-model",
        ModelNotFoundError,
        r"provided model identifier is invalid|model version has reached the end of"
        r" its life|resolve the foundation model from",
    ),
    Phrase("openrouter-model", ModelNotFoundError, r"^No endpoints found"),
    Phrase(
        "openrouter-model-id", ModelNotFoundError, r"is not a valid model ID$", _REQUEST
    ),
    Phrase(
        "ollama-model",
        ModelNotFoundError,
        r"^model [`'\"].{1,200}[`'\"] (?:not found|was removed)",
    ),
    Phrase(
        "xai-model",
        ModelNotFoundError,
        r"^The model \S{1,200} does not exist or your team",
    ),
    Phrase("deepseek-model", ModelNotFoundError, r"^Model Not Exist\.?$", _REQUEST),
    Phrase(
        "fireworks-model", ModelNotFoundError, r"^Model not found, inaccessible, and/or"
    ),
    Phrase("mistral-model", ModelNotFoundError, r"^Invalid model: \S+$", _REQUEST),
    Phrase("moonshot-model", ModelNotFoundError, r"^Not found the model \S", _REQUEST),
    Phrase("siliconflow-model", ModelNotFoundError, r"^Model does not exist\."),
    Phrase(
        "groq-model",
        ModelNotFoundError,
        r"^The model `.{1,200}` has been decommissioned",
    ),
)

# A resource that is not a model: the caller named it.
_OTHER_RESOURCES = (
    Phrase(
        "google-file",
        InvokeBadRequestError,
        r"CachedContent not found|^You do not have permission to access the File",
        frozenset({ModelNotFoundError, InvokeAuthorizationError}),
    ),
)

_FILTERS = (
    Phrase(
        "azure-filter", ContentFilterError, r"Azure OpenAI's content management policy"
    ),
    Phrase(
        "anthropic-filter",
        ContentFilterError,
        r"^Output blocked by content filtering policy",
    ),
    Phrase(
        "openai-filter",
        ContentFilterError,
        r"your prompt was flagged as potentially violating our usage policy|rejected"
        r" as a result of our safety system",
    ),
    Phrase(
        "openrouter-filter",
        ContentFilterError,
        r"requires moderation on .{1,100}\. Your input was flagged",
        _REQUEST_OR_SERVER | {InvokeAuthorizationError},
    ),
    Phrase(
        "xai-filter",
        ContentFilterError,
        r"^Content violates usage guidelines",
        _REQUEST_OR_SERVER | {InvokeAuthorizationError},
    ),
    Phrase("deepseek-filter", ContentFilterError, r"^Content Exists Risk"),
)

_QUOTAS = (
    Phrase(
        "openai-quota",
        QuotaExhaustedError,
        r"^You exceeded your current quota",
        frozenset({InvokeRateLimitError}),
    ),
    Phrase(
        "anthropic-quota",
        QuotaExhaustedError,
        r"^Your credit balance is too low|^You have reached your specified API usage"
        r" limits",
        _REQUEST | {InvokeAuthorizationError, InvokeRateLimitError},
    ),
    Phrase(
        "xai-quota",
        QuotaExhaustedError,
        r"used all available credits or reached its monthly spending limit",
        frozenset({InvokeAuthorizationError, InvokeRateLimitError}),
    ),
    Phrase(
        "siliconflow-quota",
        QuotaExhaustedError,
        r"^Sorry, your account balance is insufficient",
        frozenset({InvokeAuthorizationError, InvokeRateLimitError}),
    ),
)

_OVERLOADS = (
    Phrase(
        "openai-overload",
        InvokeServerUnavailableError,
        r"(?:model|engine) is currently overloaded",
        frozenset({InvokeRateLimitError}),
    ),
    Phrase(
        "mistral-overload",
        InvokeServerUnavailableError,
        r"^Service tier capacity exceeded for this model",
        frozenset({InvokeRateLimitError}),
    ),
)

_TOOL_CALLS = (
    Phrase(
        "groq-tool-call",
        MalformedToolCallError,
        r"^Failed to call a function\. Please adjust your prompt",
    ),
    Phrase("ollama-tool-call", MalformedToolCallError, r"^error parsing tool call:"),
    Phrase(
        "llama-cpp-tool-call",
        MalformedToolCallError,
        r"^Failed to parse tool call arguments as JSON",
    ),
    Phrase(
        "bedrock-tool-call",
        MalformedToolCallError,
        r"Model produced invalid sequence as part of ToolUse",
    ),
)

_ENDPOINTS = (
    Phrase(
        "wrong-path",
        EndpointNotFoundError,
        r"^(?:(?:404 )?(?:page |file |route |path |resource )?not found\.?|invalid url"
        r" \(.*\)|unexpected endpoint or method.*|unknown request url.*|cannot (?:post|"
        r"get) /.*|method not allowed|not implemented)$",
        frozenset({InvokeBadRequestError, InvokeServerUnavailableError}),
    ),
)

PHRASES: tuple[Phrase, ...] = (
    *_NUMBER_LIMITED,
    *_OVERFLOWS,
    *_MODELS,
    *_OTHER_RESOURCES,
    *_FILTERS,
    *_QUOTAS,
    *_OVERLOADS,
    *_TOOL_CALLS,
    *_ENDPOINTS,
)
"""In the order in which they are compared: the more exact before the general."""


def _checked(phrases: tuple[Phrase, ...]) -> tuple[Phrase, ...]:
    """Return the phrases. Raises ValueError if two have the same name."""
    names = [phrase.name for phrase in phrases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"Several phrases are called {', '.join(repeated)}")
    return phrases


_checked(PHRASES)
