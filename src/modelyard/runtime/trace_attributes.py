"""Attribute names of traces and metrics: OpenTelemetry's GenAI conventions and
OpenInference's, on the same spans.

Neither is stable, so the names are defined only here. Collectors read one of the two.
With both, every collector sees inputs, outputs and tokens, and none counts twice
(opentelemetry-semantic-conventions 0.66b2; OpenInference 0.1).
"""

# OpenTelemetry's GenAI conventions.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
USER = "user.id"

# OpenInference's names.
KIND = "openinference.span.kind"
MODEL_NAME = "llm.model_name"
LLM_PROVIDER = "llm.provider"
PROMPT_TOKENS = "llm.token_count.prompt"
COMPLETION_TOKENS = "llm.token_count.completion"
TOTAL_TOKENS = "llm.token_count.total"
INPUT_VALUE = "input.value"
OUTPUT_VALUE = "output.value"

# Attributes that exist only in modelyard.
TENANT = "modelyard.tenant"
CALL = "modelyard.call"
CREDENTIAL = "modelyard.credential"
ATTEMPTS = "modelyard.attempts"
COST = "modelyard.cost"
CURRENCY = "modelyard.currency"

OPERATIONS = {
    "llm": ("chat", "LLM"),
    "text-embedding": ("embeddings", "EMBEDDING"),
    "rerank": ("rerank", "RERANKER"),
    "moderation": ("moderation", "GUARDRAIL"),
    "speech2text": ("transcription", "LLM"),
    "tts": ("speech", "LLM"),
}
"""Model type -> (operation name of GenAI, span kind of OpenInference)."""
