"""Which headers of a call each vendor's API has, and which fields of a request need a
beta name in one of them.

Formats of one vendor share the headers: chat completions, responses and completions
are OpenAI's. Names that no table lists are never passed on, in either direction.
"""

from collections.abc import Collection, Mapping

from modelyard.base.call_headers import NO_RULES, HeaderRules
from modelyard.models.llm import LLMRequest

_SDK = (b"x-stainless-",)
"""Prefix of the headers in which the vendors' own clients describe themselves."""

ANTHROPIC = HeaderRules(
    vendor="anthropic",
    request_names=frozenset(
        {
            b"anthropic-beta",
            b"anthropic-version",
            b"idempotency-key",
            b"x-app",
            b"x-claude-code-session-id",
            b"x-client-request-id",
        }
    ),
    request_prefixes=_SDK,
    account_names=frozenset({b"anthropic-user-profile-id"}),
    query_names=frozenset({"beta"}),
    answer_names=frozenset({b"request-id"}),
    answer_prefixes=(b"anthropic-ratelimit-",),
)
OPENAI = HeaderRules(
    vendor="openai",
    request_names=frozenset(
        {
            b"openai-beta",
            b"idempotency-key",
            b"originator",
            b"session-id",
            b"session_id",
            b"conversation_id",
            b"x-client-request-id",
        }
    ),
    request_prefixes=_SDK,
    account_names=frozenset({b"openai-organization", b"openai-project"}),
    answer_names=frozenset({b"x-request-id", b"openai-processing-ms"}),
    answer_prefixes=(b"x-ratelimit-",),
)
GEMINI = HeaderRules(
    vendor="gemini",
    request_names=frozenset({b"x-goog-api-client", b"x-server-timeout"}),
)
COHERE = HeaderRules(
    vendor="cohere",
    request_names=frozenset({b"x-client-name"}),
    answer_names=frozenset({b"x-debug-trace-id"}),
    answer_prefixes=(b"x-endpoint-monthly-call-limit", b"x-trial-endpoint-call-"),
)

# By the name that a wire format uses for itself.
_RULES: Mapping[str, HeaderRules] = {
    "anthropic": ANTHROPIC,
    "openai_chat": OPENAI,
    "openai_responses": OPENAI,
    "openai_completions": OPENAI,
    "gemini": GEMINI,
    "cohere": COHERE,
}
VENDORS = (ANTHROPIC, OPENAI, GEMINI, COHERE)
"""All tables, for those who check them."""


def rules_of(wire_format: str) -> HeaderRules:
    """Return the headers of a wire format; none for one without a table."""
    return _RULES.get(wire_format, NO_RULES)


BETA_FIELDS: Mapping[str, tuple[str, ...]] = {
    "context_management": ("context-management-", "compact-"),
    "mcp_servers": ("mcp-client-",),
    "speed": ("fast-mode-",),
    "diagnostics": ("cache-diagnosis-",),
    "thread": ("message-threads-",),
    "fallbacks": ("server-side-fallback-",),
    "fallback_credit_token": ("fallback-credit-",),
    "compaction": ("compact-",),
    "billing_policy": ("user-profiles-",),
}
"""Fields of Anthropic's requests that are refused without a beta name, and how such a
name begins. The fields are those that only the beta methods of Anthropic's client have
(anthropic 2.11), and those whose refusal was reported."""


def fields_without_beta(request: LLMRequest, betas: Collection[str]) -> list[str]:
    """Return the fields of a request in Anthropic's format whose beta name is not among
    `betas`, which the provider gets. It would refuse them."""
    if not request.extra:
        return []
    return [
        name
        for name in request.extra.get("anthropic", {})
        if name in BETA_FIELDS and not _has_beta(name, betas)
    ]


def _has_beta(field_name: str, betas: Collection[str]) -> bool:
    """Return whether one of the names permits a field."""
    return any(beta.startswith(BETA_FIELDS[field_name]) for beta in betas)
