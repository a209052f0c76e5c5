"""Evaluations of a dataset that are kept: what was asked, each way's numbers, and where each answer was found."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Hit
from modelyard.knowledge.evaluate import PRESETS, Scores, Trial, questions_of
from modelyard.knowledge.ingest import Writer
from modelyard.storage.kept import Kept

_MOST_QUESTIONS = 1000
_MOST_KEPT = 100
_DEPTH = 10


class Question(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    documents: list[str]
    """Names or ids of those that answer it."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    documents: list[str]
    places: dict[str, int]
    """Way to search → the place of the first that answers it, from 1; 0 where none is among ten."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    at: float
    by: str
    embedding_model: str
    scores: list[Scores]
    outcomes: list[Outcome]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    done: int
    of: int


class Evaluations:
    def __init__(self, kept: Kept, datasets: Datasets, writer: Writer, now: Callable[[], float] = time.time) -> None:
        self._kept = kept
        self._datasets = datasets
        self._writer = writer
        self._now = now
        datasets.on_delete(self._forget_all)

    async def run(
        self, dataset: Dataset, questions: Sequence[Question], ways: Sequence[str], *, by: str = ""
    ) -> AsyncGenerator[Progress | Evaluation, None]:
        """How far it is after each question; at last what came of it, which is kept.

        Raises InvokeBadRequestError before anything is asked.
        """
        chosen = list(dict.fromkeys(ways)) or ["full_text", "semantic", "hybrid"]
        if unknown := [one for one in chosen if one not in PRESETS]:
            raise InvokeBadRequestError(f"{unknown[0]!r} is no way to search; there are {', '.join(PRESETS)}")
        if not questions:
            raise InvokeBadRequestError("'questions' is empty: there is nothing to ask", param="questions")
        if len(questions) > _MOST_QUESTIONS:
            raise InvokeBadRequestError(f"{len(questions):,} questions are more than {_MOST_QUESTIONS:,}")
        trials = [Trial(self._datasets, dataset, PRESETS[one], one) for one in chosen]
        outcomes: list[Outcome] = []
        yield Progress(done=0, of=len(questions))
        for one in questions:
            wanted = dict.fromkeys(one.documents, 1.0)
            places: dict[str, int] = {}
            for trial in trials:
                ranked = await trial.ask(one.question, wanted, lambda hit: _named(hit, wanted))  # noqa: B023  awaited
                places[trial.name] = next((at + 1 for at, name in enumerate(ranked[:_DEPTH]) if name in wanted), 0)
            outcomes.append(Outcome(question=one.question, documents=one.documents, places=places))
            yield Progress(done=len(outcomes), of=len(questions))
        made = Evaluation(
            id=new_id("eval"), at=self._now(), by=by, embedding_model=dataset.settings.embedding_model,
            scores=[one.scores() for one in trials], outcomes=outcomes,
        )  # fmt: skip
        await self._kept.put(dataset.tenant, _scope(dataset.id), made.id, msgspec.json.encode(made))
        await self._forget(dataset.tenant, dataset.id, but=_MOST_KEPT)
        yield made

    async def _forget_all(self, tenant: str, dataset: str) -> None:
        await self._forget(tenant, dataset, but=0)

    async def _forget(self, tenant: str, dataset: str, *, but: int) -> None:
        rows = await self._kept.list(tenant, _scope(dataset), most=1000)
        for row in rows[but:]:
            await self._kept.remove(tenant, _scope(dataset), row.name)

    async def all(self, dataset: Dataset) -> list[Evaluation]:
        """The newest first, without what came of each question."""
        rows = await self._kept.values(dataset.tenant, _scope(dataset.id), most=_MOST_KEPT)
        return [msgspec.structs.replace(msgspec.json.decode(body, type=Evaluation), outcomes=[]) for _, body in rows]

    async def one(self, dataset: Dataset, id: str) -> Evaluation:  # noqa: A002
        """Raises NotFoundError."""
        found = await self._kept.get(dataset.tenant, _scope(dataset.id), id)
        if found is None:
            raise NotFoundError(f"evaluation {id[:80]!r} does not exist", code="evaluation_not_found")
        return msgspec.json.decode(found, type=Evaluation)

    async def remove(self, dataset: Dataset, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not await self._kept.remove(dataset.tenant, _scope(dataset.id), id):
            raise NotFoundError(f"evaluation {id[:80]!r} does not exist", code="evaluation_not_found")

    async def questions(self, dataset: Dataset, *, most: int = 20, model: str = "default") -> list[Question]:
        """One a document, written by a model."""
        made = await questions_of(self._datasets, dataset, self._writer, most=most, model=model)
        names = {one.id: one.title for one in made.corpus}
        return [
            Question(question=text, documents=[names.get(one, one) for one in made.qrels[query]])
            for query, text in made.queries.items()
        ]


def _scope(dataset: str) -> str:
    return f"evaluation:{dataset}"


def _named(hit: Hit, wanted: "dict[str, float]") -> str:
    return hit.document.id if hit.document.id in wanted else hit.document.name
