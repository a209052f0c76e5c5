"""/admin/v1/evaluations/DATASET: measure and compare how well the search methods of a
dataset find known documents."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field
from modelyard.gateway.admin.app_shapes import EvaluationView
from modelyard.gateway.admin.requests import broken_stream, tenant_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import (
    Reply,
    Request,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.evaluations import (
    Evaluation,
    Evaluations,
    LabelledQuestion,
    Question,
    parse_questions,
)
from modelyard.models.types import JSON
from modelyard.tenancy.caller import ForbiddenError

# Each question is a call of the model, which the tenant pays.
_MAX_GENERATED_QUESTIONS = 200


@dataclass(frozen=True, slots=True)
class DatasetEvaluations:
    """Routes for evaluations of a dataset."""

    parts: DatasetParts

    async def listed(self, request: Request) -> Reply:
        """List the evaluations of a dataset, newest first.

        Raises NotFoundError.
        """
        dataset = await self._dataset(request)
        return json_reply(
            {
                "data": [
                    _shown(evaluation)
                    for evaluation in await self.parts.evaluations.list_all(dataset)
                ]
            }
        )

    async def run(self, request: Request) -> StreamReply:
        """Run an evaluation, stream its progress and store the result.

        Raises NotFoundError, InvokeBadRequestError.
        """
        dataset, body = await self._dataset(request), await request.json()
        # An empty list means all search methods.
        search_methods = [
            str(method) for method in optional_field(body, "ways", list) or ()
        ]
        questions = _questions(body)
        # Before the stream starts, so that the error has a status of its own.
        await self.parts.evaluations.check_documents(dataset, questions)
        telling = _progress_events(
            self.parts.evaluations,
            dataset,
            [labelled.question for labelled in questions],
            search_methods,
            request.caller.user or "",
        )
        return sse_reply(telling, broken_stream)

    async def write_questions(self, request: Request) -> Reply:
        """Have a model write questions, one per document. They are returned, not
        stored.

        Raises NotFoundError, InvokeBadRequestError.
        """
        dataset, body = await self._dataset(request), await request.json()
        count = optional_field(body, "count", int) or 20
        if not 1 <= count <= _MAX_GENERATED_QUESTIONS:
            raise InvokeBadRequestError(
                f"'count' must be from 1 to {_MAX_GENERATED_QUESTIONS}", param="count"
            )
        model = optional_field(body, "model", str) or "default"
        # Writing calls a model many times, so it is cancelled if the client
        # disconnects.
        writing = self.parts.evaluations.generate_questions(
            dataset, max_questions=count, model=model
        )
        return json_reply({"data": await request.cancel_on_disconnect(writing)})

    async def get_evaluation(self, request: Request) -> Reply:
        """Return an evaluation with the result of each question.

        Raises NotFoundError.
        """
        dataset = await self._dataset(request)
        return json_reply(
            _shown(
                await self.parts.evaluations.get(dataset, request.names["evaluation"])
            )
        )

    async def remove(self, request: Request) -> Reply:
        """Delete an evaluation.

        Raises NotFoundError.
        """
        dataset, name = await self._dataset(request), request.names["evaluation"]
        await self.parts.evaluations.remove(dataset, name)
        return json_reply(Removed(id=name, deleted=True))

    async def _dataset(self, request: Request) -> Dataset:
        """Return the dataset of the request's path.

        Raises NotFoundError; ForbiddenError if it has access lists and the caller is no
        administrator: an evaluation searches all documents, and tells their names.
        """
        dataset = await self.parts.datasets.get_by_id_or_name(
            tenant_of(request), request.names["id"]
        )
        if not request.caller.sees_all_documents and (
            await self.parts.datasets.access.is_protected(dataset)
        ):
            raise ForbiddenError(
                f"Dataset {dataset.name!r} has access lists: only administrators"
                " evaluate it"
            )
        return dataset


def _questions(body: JSON) -> list[LabelledQuestion]:
    """Parse the questions of a request: a list, or lines of text.

    Raises InvokeBadRequestError with the path of the invalid field, or with the numbers
    of the invalid lines.
    """
    if (lines := optional_field(body, "lines", str)) is not None:
        return parse_questions(lines)
    try:
        questions = msgspec.convert(
            required_field(body, "questions", list), list[Question]
        )
        return [
            LabelledQuestion(f"Question {number}", question)
            for number, question in enumerate(questions, 1)
        ]
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(
            f"'questions': {error}", param="questions"
        ) from error


def _shown(evaluation: Evaluation) -> EvaluationView:
    """Return the view of an evaluation."""
    return msgspec.convert(msgspec.to_builtins(evaluation), EvaluationView)


async def _progress_events(
    evaluations: Evaluations,
    dataset: Dataset,
    questions: Sequence[Question],
    search_methods: Sequence[str],
    by: str,
) -> AsyncGenerator[bytes, None]:
    """Run an evaluation and yield its progress as SSE events; the last one holds the
    result."""
    async with aclosing(
        evaluations.run(dataset, questions, search_methods, by=by)
    ) as steps:
        async for step in steps:
            # The runner yields progress steps, and the finished evaluation as its last
            # item.
            if isinstance(step, Evaluation):
                document = {
                    "event": "done",
                    "evaluation": msgspec.to_builtins(_shown(step)),
                }
            else:
                document = {"event": "progress", "done": step.done, "of": step.of}
            yield b"data: " + encode(document) + b"\n\n"
