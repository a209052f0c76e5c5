"""Translate between OpenAI's moderations API and modelyard's moderation types. Pure
functions: no network, no clock."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    expect_type,
    invalid_field,
    passthrough_fields,
    required_field,
    text_of,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationUsage,
    ModerationVerdict,
)
from modelyard.models.types import JSON

FORMAT = "openai_moderations"

# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = {"model", "input", "user"}
# Each text is classified by itself, so a request takes as long as its texts together.
_MAX_TEXTS = 256

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""All categories of OpenAI's moderation models. Clients of this format expect each of
them in every response."""


@reads_request
def parse_request(body: JSON) -> ModerationRequest:
    """Parse the JSON body of a client's moderation request. Raises
    InvokeBadRequestError that names the field."""
    raw = body.get("input")
    inputs = [raw] if isinstance(raw, str) else raw
    if not isinstance(inputs, list) or not inputs:
        raise invalid_field("input", raw, "a string or a non-empty list of strings")
    if len(inputs) > _MAX_TEXTS:
        raise InvokeBadRequestError(
            f"'input' has {len(inputs)} texts; at most {_MAX_TEXTS} are allowed",
            param="input",
        )
    # An input is a string, or an object like the content parts of a chat message.
    texts = [_text(content, f"input[{index}]") for index, content in enumerate(inputs)]
    extra_fields = {
        key: value for key, value in body.items() if key not in _KNOWN_FIELDS
    }
    return ModerationRequest(
        texts=texts, extra=passthrough_fields(FORMAT, extra_fields)
    )


def _text(content: Any, where: str) -> str:
    """Return the text of one moderation input.

    An input is a string or a content part of the type `text`; `where` is its path for
    error messages. Raises InvokeBadRequestError for anything else, images included.
    """
    if isinstance(content, dict):
        if content.get("type") != "text":
            raise invalid_field(
                f"{where}.type",
                content.get("type"),
                "'text' (images are not supported)",
            )
        return required_field(content, "text", str, f"{where}.")
    return expect_type(content, str, where)


def dump_request(
    request: ModerationRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build the request body. `capabilities.drop` lists fields to omit."""
    body: JSON = {
        "input": request.texts,
        **request.extra.get(FORMAT, {}),
        "model": model,
    }
    for name in capabilities.drop:
        body.pop(name, None)
    return body


@reads_answer
def parse_result(body: Any) -> ModerationResult:
    """Parse a moderation response into one verdict per text.

    If `flagged` is missing, as in Mistral's responses, a text counts as flagged if any
    category is. Raises InvokeServerUnavailableError if `results` is missing or empty.
    """
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list) or not results:
        raise InvokeServerUnavailableError("Upstream response has no 'results'")
    verdicts = [
        ModerationVerdict(
            # Without `flagged`, a text counts as flagged if any category is.
            flagged=bool(
                wire_verdict.get(
                    "flagged", any((wire_verdict.get("categories") or {}).values())
                )
            ),  # Mistral omits it
            categories={
                name: bool(value)
                for name, value in (wire_verdict.get("categories") or {}).items()
            },
            category_scores={
                name: float(value)
                for name, value in (wire_verdict.get("category_scores") or {}).items()
            },
        )
        for wire_verdict in results
    ]
    return ModerationResult(
        id=text_of(body.get("id")),
        model=text_of(body.get("model")),
        verdicts=verdicts,
        usage=ModerationUsage(texts=len(verdicts)),
    )


def dump_result(result: ModerationResult, *, response_id: str = "") -> JSON:
    """Build a moderation response; `response_id` is used if the result has no id."""
    return {
        "id": result.id or response_id,
        "model": result.model,
        "results": [_dump_verdict(verdict) for verdict in result.verdicts],
    }


def _dump_verdict(verdict: ModerationVerdict) -> JSON:
    """Build an entry of `results` for one text.

    All of OpenAI's categories are present: those that the upstream did not judge are
    false with a score of 0.0. Categories of other vendors are added.
    """
    return {
        "flagged": verdict.flagged,
        # Categories that the upstream does not know are reported as not flagged.
        "categories": {**dict.fromkeys(CATEGORIES, False), **verdict.categories},
        "category_scores": {
            **dict.fromkeys(CATEGORIES, 0.0),
            **verdict.category_scores,
        },
        "category_applied_input_types": {
            name: ["text"] for name in [*CATEGORIES, *verdict.categories]
        },
    }
