"""/admin/v1/evaluations/DATASET: how well a dataset is searched, each way beside the others, kept to compare."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.app_shapes import EvaluationShown
from modelyard.gateway.admin.requests import broken_stream, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.evaluations import Evaluation, Evaluations, Question

_MOST_WRITTEN = 200


@dataclass(frozen=True, slots=True)
class DatasetEvaluations:
    """What came of asking a dataset questions whose documents are known."""

    parts: DatasetParts

    async def listed(self, request: Request) -> Reply:
        """Newest first. Raises NotFoundError."""
        dataset = await self._dataset(request)
        return json_reply({"data": [_shown(kept) for kept in await self.parts.evaluations.all(dataset)]})

    async def run(self, request: Request) -> StreamReply:
        """Told as it goes, and kept. Raises NotFoundError, InvokeBadRequestError."""
        dataset, body = await self._dataset(request), await request.json()
        ways = [str(way) for way in may(body, "ways", list) or ()]
        questions = _questions(need(body, "questions", list))
        telling = _told(self.parts.evaluations, dataset, questions, ways, request.caller.user or "")
        return sse_reply(telling, broken_stream)

    async def write_questions(self, request: Request) -> Reply:
        """By a model, one a document; they are not kept. Raises NotFoundError, InvokeBadRequestError."""
        dataset, body = await self._dataset(request), await request.json()
        count = may(body, "count", int) or 20
        if not 1 <= count <= _MOST_WRITTEN:
            raise InvokeBadRequestError(f"'count' must be from 1 to {_MOST_WRITTEN}", param="count")
        model = may(body, "model", str) or "default"
        writing = self.parts.evaluations.questions(dataset, most=count, model=model)
        return json_reply({"data": await request.while_here(writing)})

    async def one(self, request: Request) -> Reply:
        """Question by question. Raises NotFoundError."""
        dataset = await self._dataset(request)
        return json_reply(_shown(await self.parts.evaluations.one(dataset, request.names["evaluation"])))

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        dataset, name = await self._dataset(request), request.names["evaluation"]
        await self.parts.evaluations.remove(dataset, name)
        return json_reply(Removed(id=name, deleted=True))

    async def _dataset(self, request: Request) -> Dataset:
        return await self.parts.datasets.find(tenant_of(request), request.names["id"])


def _questions(given: Sequence[object]) -> list[Question]:
    try:
        return msgspec.convert(given, list[Question])
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(f"questions: {error}", param="questions") from error


def _shown(one: Evaluation) -> EvaluationShown:
    return msgspec.convert(msgspec.to_builtins(one), EvaluationShown)


async def _told(
    kept: Evaluations, dataset: Dataset, questions: Sequence[Question], ways: Sequence[str], by: str
) -> AsyncGenerator[bytes, None]:
    async with aclosing(kept.run(dataset, questions, ways, by=by)) as steps:
        async for one in steps:
            if isinstance(one, Evaluation):
                document = {"event": "done", "evaluation": msgspec.to_builtins(_shown(one))}
            else:
                document = {"event": "progress", "done": one.done, "of": one.of}
            yield b"data: " + encode(document) + b"\n\n"
