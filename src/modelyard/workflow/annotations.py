"""Annotations: prepared answers to questions, which an app returns without calling a
model.

A question is compared with the app's annotations by the cosine similarity of their
embeddings; the closest one answers if it reaches the threshold. Vectors are made on
first use, with the configured embedding model, and stored.
"""

import array
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.storage.database import Connection, Database, Row, statements
from modelyard.storage.scoped_store import ScopedStore

Embed = Callable[[str, str, Sequence[str]], Awaitable[list[Sequence[float]]]]
"""Embeds texts: (tenant, model, texts) to one vector per text."""
# Some servers, such as TEI by default, take no more texts in one request.
_BATCH = 32
# Each question is compared with all annotations of an app, in this process.
_MAX_ANNOTATIONS = 10_000
_MAX_JOBS = 100
"""How many results of jobs are kept for each app, for clients that poll."""


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """A question with its prepared answer."""

    id: str
    question: str
    answer: str
    hits: int = 0
    created_at: float = 0.0


class ReplySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an app answers from annotations, and how similar a question must be."""

    enabled: bool = False
    score_threshold: float = 0.9
    embedding_provider_name: str = ""
    embedding_model_name: str = ""

    @property
    def model(self) -> str:
        """The embedding model's name; `default-text-embedding` if none is configured."""
        if not self.embedding_model_name:
            return "default-text-embedding"
        # Dify's provider names contain the plugin's name before the last slash.
        provider = self.embedding_provider_name.rpartition("/")[2]
        if not self.embedding_provider_name:
            return self.embedding_model_name
        return f"{provider}/{self.embedding_model_name}"


class Annotations:
    """Repository of annotations, and the search for an answer."""

    def __init__(
        self,
        database: Database,
        scoped_store: ScopedStore,
        embed: Embed,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = scoped_store
        self._embed = embed
        self._clock = clock
        self._sql = statements("annotations")

    async def _execute(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Run a statement in a transaction and return its rows."""
        return await self._database.transact(
            lambda connection: connection.execute(self._sql[name], values)
        )

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        """Return the rows of a query."""
        return await self._database.fetch(self._sql[name], values)

    async def add(
        self, tenant: str, app: str, question: str, answer: str
    ) -> Annotation:
        """Add an annotation. Raises InvokeBadRequestError if a text is empty or the app
        has too many annotations."""
        question, answer = (
            _require_text(question, "question"),
            _require_text(answer, "answer"),
        )
        annotation = Annotation(
            id=new_uuid(), question=question, answer=answer, created_at=self._clock()
        )

        def work(connection: Connection) -> None:
            """Check the limit and insert the annotation in one transaction."""
            count_rows = connection.execute(
                self._sql["count"], {"tenant": tenant, "app": app, "like": ""}
            )
            # The check is inside the transaction, so that concurrent requests cannot
            # exceed the limit.
            if int(count_rows[0]["count"]) >= _MAX_ANNOTATIONS:
                raise InvokeBadRequestError(
                    f"An app has at most {_MAX_ANNOTATIONS:,} annotations"
                )
            connection.execute(
                self._sql["add"],
                (tenant, annotation.id, app, question, answer, annotation.created_at),
            )

        await self._database.transact(work)
        return annotation

    async def page(
        self,
        tenant: str,
        app: str,
        *,
        keyword: str = "",
        limit: int = 20,
        skip: int = 0,
    ) -> list[Annotation]:
        """Return one page of annotations. `keyword` filters them; empty for all."""
        rows = await self._rows(
            "list",
            tenant=tenant,
            app=app,
            like=_like(keyword),
            most=limit,
            skip=skip,
        )
        return [
            Annotation(
                id=row["id"],
                question=row["question"],
                answer=row["answer"],
                hits=row["hits"],
                created_at=row["created_at"],
            )
            for row in rows
        ]

    async def count(self, tenant: str, app: str, keyword: str = "") -> int:
        """Return the number of annotations that match the keyword."""
        rows = await self._rows(
            "count",
            tenant=tenant,
            app=app,
            like=_like(keyword),
        )
        return int(rows[0]["count"])

    async def update(
        self, tenant: str, app: str, id: str, question: str, answer: str
    ) -> Annotation:
        """Replace an annotation's question and answer, and return it.

        Raises NotFoundError if the app has no such annotation, InvokeBadRequestError if
        a text is empty.
        """
        question, answer = (
            _require_text(question, "question"),
            _require_text(answer, "answer"),
        )

        def work(connection: Connection) -> Row:
            """Update the row and read its hits."""
            # The statement returns no row if the annotation belongs to
            # another app or tenant.
            if not connection.execute(
                self._sql["change"], (question, answer, tenant, app, id)
            ):
                raise NotFoundError("Annotation not found", code="not_found")
            return connection.execute(
                self._sql["one"], {"tenant": tenant, "app": app, "id": id}
            )[0]

        row = await self._database.transact(work)
        return Annotation(
            id=id,
            question=question,
            answer=answer,
            hits=row["hits"],
            created_at=row["created_at"],
        )

    async def delete(self, tenant: str, app: str, id: str) -> None:
        """Delete an annotation. Raises NotFoundError."""
        if not await self._execute("remove", (tenant, app, id)):
            raise NotFoundError("Annotation not found", code="not_found")

    async def delete_all(self, tenant: str, app: str) -> None:
        """Delete all annotations of an app."""
        await self._execute("forget", (tenant, app))

    # Settings

    async def settings(self, tenant: str, app: str) -> ReplySettings | None:
        """Return the settings stored through the API; None if there are none."""
        data = await self._store.get(tenant, f"app/{app}", "annotation_reply")
        return msgspec.json.decode(data, type=ReplySettings) if data else None

    async def save_settings(
        self, tenant: str, app: str, settings: ReplySettings
    ) -> None:
        """Store an app's annotation settings."""
        scope, value = f"app/{app}", msgspec.json.encode(settings)
        await self._store.put(tenant, scope, "annotation_reply", value)

    async def record_job(self, tenant: str, app: str, problem: str) -> str:
        """Store the result of a job and return the job's id. `problem` is empty if it
        succeeded. Any server can report it; old results are deleted."""
        scope, job = f"app/{app}/annotation_jobs", new_uuid()
        await self._store.put_newest(
            tenant, scope, job, problem.encode(), keep=_MAX_JOBS
        )
        return job

    async def job_problem(self, tenant: str, app: str, job: str) -> str | None:
        """Return why a job failed, an empty text if it succeeded, or None if the app
        has no such job."""
        data = await self._store.get(tenant, f"app/{app}/annotation_jobs", job)
        return data.decode() if data is not None else None

    # Answering

    async def prepare(self, tenant: str, app: str, settings: ReplySettings) -> None:
        """Create the missing vectors of an app's annotations."""
        rows = await self._rows("vectors", tenant=tenant, app=app)
        await self._ensure_vectors(tenant, rows, settings.model)

    async def _ensure_vectors(
        self, tenant: str, rows: Sequence[Any], model: str
    ) -> list[tuple[Any, "array.array[float]"]]:
        """Return the rows with their vectors, creating and storing those that are
        missing or of another model."""
        embedded_rows = [
            (row, array.array("f", bytes(row["vector"])))
            for row in rows
            if row["model"] == model and row["vector"]
        ]
        missing = [row for row in rows if row["model"] != model or not row["vector"]]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            vectors = [
                _normalise(vector)
                for vector in await self._embed(
                    tenant, model, [row["question"] for row in batch]
                )
            ]

            # Bind the current batch as defaults: the function runs later, in another
            # thread.
            def work(
                connection: Connection, batch: Any = batch, vectors: Any = vectors
            ) -> None:
                """Store the vectors of one batch."""
                values = [
                    (model, vector.tobytes(), tenant, row["id"])
                    for row, vector in zip(batch, vectors, strict=True)
                ]
                connection.execute_many(self._sql["embed"], values)

            await self._database.transact(work)
            embedded_rows += list(zip(batch, vectors, strict=True))
        return embedded_rows

    async def answer(
        self, tenant: str, app: str, query: str, settings: ReplySettings
    ) -> Annotation | None:
        """Return the annotation that answers a question; None without a match.

        An identical question needs no embedding. Otherwise the closest annotation must
        reach the threshold of `settings`; missing vectors are made first. The
        annotation's hits are counted up.
        """
        if not query.strip():
            return None
        rows = await self._rows("vectors", tenant=tenant, app=app)
        if not rows:
            return None
        # An identical question needs no embedding.
        best_row: Any = next(
            (
                row
                for row in rows
                if row["question"].strip().lower() == query.strip().lower()
            ),
            None,
        )
        if best_row is None:
            embedded_rows = await self._ensure_vectors(tenant, rows, settings.model)
            query_vector = _normalise(
                (await self._embed(tenant, settings.model, [query]))[0]
            )
            score, best_row = max(
                ((_dot(query_vector, vector), row) for row, vector in embedded_rows),
                key=lambda candidate: candidate[0],
            )
            if score < settings.score_threshold:
                return None
        # Count the answer as a hit.
        await self._execute("hit", (tenant, best_row["id"]))
        return Annotation(
            id=best_row["id"], question=best_row["question"], answer=best_row["answer"]
        )


def _normalise(vector: Sequence[float]) -> "array.array[float]":
    """Return the vector scaled to length 1."""
    # Zero vectors stay zero.
    size = math.sqrt(sum(component * component for component in vector)) or 1.0
    return array.array("f", [component / size for component in vector])


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the scalar product of two vectors; -1 if their lengths differ."""
    # Vectors of different lengths are from different models, and not comparable.
    return (
        sum(a * b for a, b in zip(left, right, strict=True))
        if len(left) == len(right)
        else -1.0
    )


def _like(keyword: str) -> str:
    """Return the pattern that finds a keyword; empty for all annotations."""
    return f"%{keyword.lower()}%" if keyword else ""


def _require_text(text: Any, field_name: str) -> str:
    """Return a required text, stripped and truncated. Raises InvokeBadRequestError if
    it is empty."""
    if not isinstance(text, str) or not text.strip():
        raise InvokeBadRequestError(f"{field_name!r} is required", param=field_name)
    return text.strip()[:20_000]
