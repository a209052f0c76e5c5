"""Stored evaluations of a dataset: the questions, the scores of each search strategy,
and the rank of each answer."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Hit
from modelyard.knowledge.evaluate import (
    PRESETS,
    SHARE_PRESETS,
    RetrievalRun,
    Scores,
    generate_questions,
)
from modelyard.knowledge.ingest import Writer
from modelyard.storage.scoped_store import ScopedStore

_MAX_QUESTIONS = 1000
_MAX_EVALUATIONS = 100
_DEPTH = 10
_MAX_REPORTED_PROBLEMS = 10
_STRATEGIES = {**PRESETS, **SHARE_PRESETS}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A test question and the documents that answer it."""

    question: str
    documents: list[str]
    """Names or ids of the documents that answer the question."""


class LabelledQuestion(NamedTuple):
    """A question with its position in the input, for error messages."""

    label: str
    """For example "Line 3"."""
    question: Question


def parse_questions(text: str) -> list[LabelledQuestion]:
    """Parse questions of the form `QUESTION => DOCUMENT | DOCUMENT`, one a line. Blank
    lines are skipped.

    Raises InvokeBadRequestError with the numbers of all lines that have another form.
    """
    questions: list[LabelledQuestion] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        # The question itself may contain an arrow.
        question, _, names = line.rpartition("=>")
        documents = [name.strip() for name in names.split("|") if name.strip()]
        if question.strip() and documents:
            parsed = Question(question=question.strip(), documents=documents)
            questions.append(LabelledQuestion(f"Line {number}", parsed))
        else:
            problems.append(
                f"Line {number}: expected QUESTION => DOCUMENT | DOCUMENT, got"
                f" {line.strip()[:80]!r}"
            )
    _refuse(problems)
    return questions


def _refuse(problems: Sequence[str]) -> None:
    """Raise InvokeBadRequestError with the first ten problems, if there are any."""
    if not problems:
        return
    reported = list(problems[:_MAX_REPORTED_PROBLEMS])
    if more := len(problems) - len(reported):
        reported.append(f"and {more:,} more")
    raise InvokeBadRequestError("; ".join(reported), param="questions")


class QuestionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one question."""

    question: str
    documents: list[str]
    places: dict[str, int]
    """Search strategy to the rank of the first relevant document, from 1; 0 if it is
    not among the first ten."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A completed evaluation of a dataset."""

    id: str
    at: float
    by: str
    embedding_model: str
    scores: list[Scores]
    outcomes: list[QuestionOutcome]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The number of questions that have been evaluated, of all."""

    done: int
    of: int


class Evaluations:
    """Runs evaluations of datasets and stores their results."""

    def __init__(
        self,
        scoped_store: ScopedStore,
        datasets: Datasets,
        writer: Writer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = scoped_store
        self._datasets = datasets
        self._writer = writer
        self._now = clock
        datasets.on_delete(self._delete_all)

    async def check_documents(
        self, dataset: Dataset, questions: Sequence[LabelledQuestion]
    ) -> None:
        """Raise InvokeBadRequestError if a question names no document, or one that the
        dataset does not contain: it would count as not found.

        The documents of external datasets are not known, and not checked.
        """
        if dataset.settings.provider == "external":
            return
        rows = await self._datasets.store.documents.sources(dataset.tenant, dataset.id)
        # Questions name documents by either; names need not be unique.
        known_names = {row["id"] for row in rows} | {row["name"] for row in rows}
        problems = [
            f"{label}: the dataset has no document {name[:80]!r}"
            for label, question in questions
            for name in question.documents
            if name not in known_names
        ]
        problems += [
            f"{label}: the question names no document"
            for label, question in questions
            if not question.documents
        ]
        _refuse(problems)

    async def run(
        self,
        dataset: Dataset,
        questions: Sequence[Question],
        strategies: Sequence[str],
        *,
        by: str = "",
    ) -> AsyncGenerator[Progress | Evaluation, None]:
        """Evaluate search strategies, yielding the progress after each question and the
        stored evaluation at the end.

        Raises InvokeBadRequestError before the first search if a strategy or the
        questions are invalid.
        """
        trials = [
            RetrievalRun(self._datasets, dataset, _STRATEGIES[strategy], strategy)
            for strategy in _valid_strategies(strategies)
        ]
        if not questions:
            raise InvokeBadRequestError(
                "'questions' must not be empty", param="questions"
            )
        if len(questions) > _MAX_QUESTIONS:
            raise InvokeBadRequestError(
                f"'questions' may have at most {_MAX_QUESTIONS:,} items, got"
                f" {len(questions):,}"
            )
        outcomes: list[QuestionOutcome] = []
        yield Progress(done=0, of=len(questions))
        for question in questions:
            outcomes.append(await _evaluate_question(trials, question))
            yield Progress(done=len(outcomes), of=len(questions))
        evaluation = Evaluation(
            id=new_id("eval"),
            at=self._now(),
            by=by,
            embedding_model=dataset.settings.embedding_model,
            scores=[trial.scores() for trial in trials],
            outcomes=outcomes,
        )
        await self._store.put(
            dataset.tenant,
            _scope(dataset.id),
            evaluation.id,
            msgspec.json.encode(evaluation),
        )
        # Old evaluations are removed so that the store stays bounded.
        await self._delete_old(dataset.tenant, dataset.id, but=_MAX_EVALUATIONS)
        yield evaluation

    async def _delete_all(self, tenant: str, dataset: str) -> None:
        await self._delete_old(tenant, dataset, but=0)

    async def _delete_old(self, tenant: str, dataset: str, *, but: int) -> None:
        """Delete a dataset's evaluations except for the newest `but`.

        At most 1,000 stored evaluations are considered in one call.
        """
        # Rows are listed newest first, so the remainder after `but` is the oldest.
        rows = await self._store.list(tenant, _scope(dataset), limit=1000)
        for row in rows[but:]:
            await self._store.remove(tenant, _scope(dataset), row.name)

    async def list_all(self, dataset: Dataset) -> list[Evaluation]:
        """Return the dataset's evaluations, newest first, without the outcomes of
        single questions."""
        rows = await self._store.values(
            dataset.tenant, _scope(dataset.id), limit=_MAX_EVALUATIONS
        )
        return [
            msgspec.structs.replace(
                msgspec.json.decode(body, type=Evaluation), outcomes=[]
            )
            for _, body in rows
        ]

    async def get(self, dataset: Dataset, id: str) -> Evaluation:
        """Return one evaluation with its outcomes. Raises NotFoundError."""
        body = await self._store.get(dataset.tenant, _scope(dataset.id), id)
        if body is None:
            raise NotFoundError(
                f"Evaluation {id[:80]!r} does not exist", code="evaluation_not_found"
            )
        return msgspec.json.decode(body, type=Evaluation)

    async def remove(self, dataset: Dataset, id: str) -> None:
        """Delete one evaluation. Raises NotFoundError."""
        if not await self._store.remove(dataset.tenant, _scope(dataset.id), id):
            raise NotFoundError(
                f"Evaluation {id[:80]!r} does not exist", code="evaluation_not_found"
            )

    async def generate_questions(
        self, dataset: Dataset, *, max_questions: int = 20, model: str = "default"
    ) -> list[Question]:
        """Generate one question per document with a model, for at most `max_questions`
        documents."""
        collection = await generate_questions(
            self._datasets,
            dataset,
            self._writer,
            max_questions=max_questions,
            model=model,
        )
        names = {text.id: text.title for text in collection.corpus}
        return [
            Question(
                question=text,
                documents=[
                    names.get(document_id, document_id)
                    for document_id in collection.qrels[query]
                ],
            )
            for query, text in collection.queries.items()
        ]


def _valid_strategies(strategies: Sequence[str]) -> list[str]:
    """Return the distinct strategies; the default ones if none is named. Raises
    InvokeBadRequestError for an unknown one."""
    # Duplicates would double the work and overwrite each other's ranks.
    selected = list(dict.fromkeys(strategies)) or ["full_text", "semantic", "hybrid"]
    for strategy in selected:
        if strategy not in _STRATEGIES:
            raise InvokeBadRequestError(
                f"Unknown search strategy {strategy!r}; expected one of"
                f" {', '.join(_STRATEGIES)}"
            )
    return selected


async def _evaluate_question(
    trials: Sequence[RetrievalRun], question: Question
) -> QuestionOutcome:
    """Search a question with each strategy, and return the rank of its first relevant
    document."""
    # All named documents are equally relevant.
    relevant_documents = dict.fromkeys(question.documents, 1.0)
    ranks: dict[str, int] = {}
    for trial in trials:
        ranked = await trial.ask(
            question.question,
            relevant_documents,
            lambda hit: _relevant_name(hit, relevant_documents),
        )
        ranks[trial.name] = next(
            (
                rank_index + 1
                for rank_index, name in enumerate(ranked[:_DEPTH])
                if name in relevant_documents
            ),
            0,
        )
    return QuestionOutcome(
        question=question.question, documents=question.documents, places=ranks
    )


def _scope(dataset: str) -> str:
    return f"evaluation:{dataset}"


def _relevant_name(hit: Hit, relevant_documents: "dict[str, float]") -> str:
    """Return the hit's document id or name, whichever the question uses."""
    return (
        hit.document.id if hit.document.id in relevant_documents else hit.document.name
    )
