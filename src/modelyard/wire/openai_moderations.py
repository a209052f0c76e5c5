"""OpenAI moderations <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import kept, need, typed, wrong
from modelyard.base.shapes import reads_request
from modelyard.models.moderation import ModerationRequest, ModerationResult, ModerationUsage, ModerationVerdict
from modelyard.models.types import JSON

FORMAT = "openai_moderations"

_KNOWN = {"model", "input", "user"}
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
"""Clients of this format expect every one in every answer."""


@reads_request
def parse_request(body: JSON) -> ModerationRequest:
    raw = body.get("input")
    inputs = [raw] if isinstance(raw, str) else raw
    if not isinstance(inputs, list) or not inputs:
        raise wrong("input", raw, "a string or a list of strings that is not empty")
    if len(inputs) > _MAX_TEXTS:
        raise InvokeBadRequestError(f"'input' holds {len(inputs)} texts; at most {_MAX_TEXTS} at once", param="input")
    texts = [_text(one, f"input[{place}]") for place, one in enumerate(inputs)]
    rest = {key: value for key, value in body.items() if key not in _KNOWN}
    return ModerationRequest(texts=texts, extra=kept(FORMAT, rest))


def _text(one: Any, where: str) -> str:
    if isinstance(one, dict):
        if one.get("type") != "text":
            raise wrong(f"{where}.type", one.get("type"), "'text': pictures are not moderated here")
        return need(one, "text", str, f"{where}.")
    return typed(one, str, where)


def dump_request(request: ModerationRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"input": request.texts, **request.extra.get(FORMAT, {}), "model": model}
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def parse_result(body: Any) -> ModerationResult:
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list) or not results:
        raise InvokeServerUnavailableError("the answer holds no results")
    verdicts = [
        ModerationVerdict(
            flagged=bool(one.get("flagged", any((one.get("categories") or {}).values()))),  # Mistral leaves it out
            categories={name: bool(value) for name, value in (one.get("categories") or {}).items()},
            category_scores={name: float(value) for name, value in (one.get("category_scores") or {}).items()},
        )
        for one in results
    ]
    return ModerationResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        verdicts=verdicts,
        usage=ModerationUsage(texts=len(verdicts)),
    )


def dump_result(result: ModerationResult, *, response_id: str = "") -> JSON:
    return {
        "id": result.id or response_id,
        "model": result.model,
        "results": [_dump_verdict(verdict) for verdict in result.verdicts],
    }


def _dump_verdict(verdict: ModerationVerdict) -> JSON:
    return {
        "flagged": verdict.flagged,
        "categories": {**dict.fromkeys(CATEGORIES, False), **verdict.categories},
        "category_scores": {**dict.fromkeys(CATEGORIES, 0.0), **verdict.category_scores},
        "category_applied_input_types": {name: ["text"] for name in [*CATEGORIES, *verdict.categories]},
    }
