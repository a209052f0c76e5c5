"""POST /admin/v1/split: preview how a rule splits a text, without storing anything."""

from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.number_bounds import check_numbers
from modelyard.gateway.admin.app_shapes import SplitSegment
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.knowledge.entities import ProcessRule

# A preview is computed while its user waits.
_MAX_TEXT_LENGTH = 200_000
# More than anybody reads; the total is shown with them.
_MAX_SEGMENTS = 200


@dataclass(frozen=True, slots=True)
class SplitPreview:
    """Route that previews the segments of a text with their character positions."""

    parts: DatasetParts

    async def show(self, request: Request) -> Reply:
        """Split the text and return the first segments, with the total count.

        Raises InvokeBadRequestError.
        """
        body = await request.json()
        text = required_field(body, "text", str)
        # The preview runs while the client waits, so long texts are refused.
        if len(text) > _MAX_TEXT_LENGTH:
            raise InvokeBadRequestError(
                f"'text' is longer than {_MAX_TEXT_LENGTH:,} characters", param="text"
            )
        try:
            rule = msgspec.convert(
                optional_field(body, "process_rule", dict) or {},
                ProcessRule,
                strict=False,
            )
            check_numbers(rule, is_signed=True)
        except msgspec.ValidationError as error:
            raise InvokeBadRequestError(
                f"process_rule: {error}", param="process_rule"
            ) from error
        # The file name makes the splitter treat the text as Markdown.
        segments = await self.parts.datasets.preview("preview.md", text, rule=rule)
        views = [
            SplitSegment(text=segment.text, start=segment.start, stop=segment.stop)
            for segment in segments[:_MAX_SEGMENTS]
        ]
        return json_reply({"data": views, "total": len(segments)})
