"""POST /admin/v1/split: what a rule makes of a text, before any document is split by it. Nothing is kept."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.base.numbers import check_numbers
from modelyard.gateway.admin.app_shapes import SplitPiece
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.knowledge.entities import ProcessRule

_MOST = 200_000
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class SplitPreview:
    """Pieces of a text, and which characters of it they are."""

    parts: DatasetParts

    async def show(self, request: Request) -> Reply:
        """Raises InvokeBadRequestError."""
        body = await request.json()
        text = need(body, "text", str)
        if len(text) > _MOST:
            raise InvokeBadRequestError(f"'text' is longer than {_MOST:,} characters", param="text")
        try:
            rule = msgspec.convert(may(body, "process_rule", dict) or {}, ProcessRule, strict=False)
            check_numbers(rule, is_signed=True)
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(f"process_rule: {error}", param="process_rule") from error
        pieces = await self.parts.datasets.preview("preview.md", text, rule=rule)
        shown = [SplitPiece(text=one.text, start=one.start, stop=one.stop) for one in pieces[:_SHOWN]]
        return json_reply({"data": shown, "total": len(pieces)})
