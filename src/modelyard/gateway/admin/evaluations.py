"""/admin/v1/evaluations/DATASET: how well a dataset is searched, each way beside the others, kept to compare."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import may, need
from modelyard.gateway.admin.requests import PREFIX, broken_stream, tenant_of
from modelyard.gateway.admin.shapes import EvaluationShown
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.evaluations import Evaluation, Evaluations, Question

_MOST_WRITTEN = 200


@dataclass(frozen=True, slots=True)
class EvaluationsRoute:
    """GET evaluations/DATASET, …/ID; POST evaluations/DATASET (`questions`, `ways`), told as it goes;
    POST …/questions (`count`, `model`); DELETE …/ID."""

    parts: DatasetParts

    async def __call__(self, request: Request) -> Reply | StreamReply:
        name, _, rest = request.path.removeprefix(f"{PREFIX}evaluations/").strip("/").partition("/")
        dataset = await self.parts.datasets.find(tenant_of(request), name)
        kept = self.parts.evaluations
        match request.method, rest:
            case "GET", "":
                return json_reply({"data": [_shown(one) for one in await kept.all(dataset)]})
            case "POST", "":
                body = await request.json()
                ways = [str(one) for one in may(body, "ways", list) or ()]
                questions = _questions(need(body, "questions", list))
                return sse_reply(_told(kept, dataset, questions, ways, request.caller.user or ""), broken_stream)
            case "POST", "questions":
                body = await request.json()
                count = may(body, "count", int) or 20
                if not 1 <= count <= _MOST_WRITTEN:
                    raise InvokeBadRequestError(f"'count' must be from 1 to {_MOST_WRITTEN}", param="count")
                writing = kept.questions(dataset, most=count, model=may(body, "model", str) or "default")
                return json_reply({"data": await request.while_here(writing)})
            case "GET", _:
                return json_reply(_shown(await kept.one(dataset, rest)))
            case "DELETE", _:
                await kept.remove(dataset, rest)
                return json_reply({"id": rest, "deleted": True})
            case _:
                raise request.not_offered()


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
