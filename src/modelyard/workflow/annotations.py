"""Annotations: questions that an app answers by what somebody wrote down, without a model.

A question is compared with an app's annotations by the cosine of their embeddings; the nearest answers where it is near
enough. Vectors are made when they are first needed, by the embedding model that is chosen, and kept.
"""

import array
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.storage.database import Connection, Database, Row, statements
from modelyard.storage.kept import Kept

Embed = Callable[[str, str, Sequence[str]], Awaitable[list[Sequence[float]]]]
"""(tenant, model, texts) → a vector each."""
_BATCH = 32
_MOST = 10_000


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    question: str
    answer: str
    hits: int = 0
    created_at: float = 0.0


class ReplySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an app answers by annotations, and how near a question must be."""

    enabled: bool = False
    score_threshold: float = 0.9
    embedding_provider_name: str = ""
    embedding_model_name: str = ""

    @property
    def model(self) -> str:
        if not self.embedding_model_name:
            return "default-text-embedding"
        named = f"{self.embedding_provider_name.rpartition('/')[2]}/{self.embedding_model_name}"
        return named if self.embedding_provider_name else self.embedding_model_name


class Annotations:
    def __init__(self, database: Database, kept: Kept, embed: Embed, now: Callable[[], float]) -> None:
        self._database = database
        self._kept = kept
        self._embed = embed
        self._now = now
        self._sql = statements("annotations")

    async def _do(self, name: str, values: Sequence[Any]) -> list[Any]:
        return await self._database.transact(lambda it: it.execute(self._sql[name], values))

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        return await self._database.fetch(self._sql[name], values)

    async def add(self, tenant: str, app: str, question: str, answer: str) -> Annotation:
        """Raises InvokeBadRequestError."""
        question, answer = _checked(question, "question"), _checked(answer, "answer")
        made = Annotation(id=new_uuid(), question=question, answer=answer, created_at=self._now())

        def work(connection: Connection) -> None:
            counted = connection.execute(self._sql["count"], {"tenant": tenant, "app": app, "like": ""})
            if int(counted[0]["count"]) >= _MOST:
                raise InvokeBadRequestError(f"an app has at most {_MOST:,} annotations")
            connection.execute(self._sql["add"], (tenant, made.id, app, question, answer, made.created_at))

        await self._database.transact(work)
        return made

    async def page(
        self, tenant: str, app: str, *, keyword: str = "", most: int = 20, skip: int = 0
    ) -> list[Annotation]:
        rows = await self._rows("list", tenant=tenant, app=app, like=_like(keyword), most=most, skip=skip)
        return [
            Annotation(
                id=row["id"], question=row["question"], answer=row["answer"], hits=row["hits"],
                created_at=row["created_at"],
            )
            for row in rows
        ]  # fmt: skip

    async def count(self, tenant: str, app: str, keyword: str = "") -> int:
        rows = await self._rows("count", tenant=tenant, app=app, like=_like(keyword))
        return int(rows[0]["count"])

    async def change(self, tenant: str, app: str, id: str, question: str, answer: str) -> Annotation:  # noqa: A002
        """Raises NotFoundError, InvokeBadRequestError."""
        question, answer = _checked(question, "question"), _checked(answer, "answer")

        def work(connection: Connection) -> Row:
            if not connection.execute(self._sql["change"], (question, answer, tenant, app, id)):
                raise NotFoundError("Annotation not found", code="not_found")
            return connection.execute(self._sql["one"], {"tenant": tenant, "app": app, "id": id})[0]

        row = await self._database.transact(work)
        return Annotation(id=id, question=question, answer=answer, hits=row["hits"], created_at=row["created_at"])

    async def remove(self, tenant: str, app: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not await self._do("remove", (tenant, app, id)):
            raise NotFoundError("Annotation not found", code="not_found")

    async def forget(self, tenant: str, app: str) -> None:
        await self._do("forget", (tenant, app))

    # settings

    async def settings(self, tenant: str, app: str) -> ReplySettings | None:
        """What was set by API; None where nothing was."""
        data = await self._kept.get(tenant, f"app/{app}", "annotation_reply")
        return msgspec.json.decode(data, type=ReplySettings) if data else None

    async def set(self, tenant: str, app: str, settings: ReplySettings) -> None:
        await self._kept.put(tenant, f"app/{app}", "annotation_reply", msgspec.json.encode(settings))

    # answering

    async def prepare(self, tenant: str, app: str, settings: ReplySettings) -> None:
        """Make the vectors that are missing."""
        rows = await self._rows("vectors", tenant=tenant, app=app)
        await self._embedded(tenant, rows, settings.model)

    async def _embedded(self, tenant: str, rows: Sequence[Any], model: str) -> list[tuple[Any, "array.array[float]"]]:
        found = [
            (row, array.array("f", bytes(row["vector"]))) for row in rows if row["model"] == model and row["vector"]
        ]
        missing = [row for row in rows if row["model"] != model or not row["vector"]]
        for at in range(0, len(missing), _BATCH):
            some = missing[at : at + _BATCH]
            vectors = [_unit(one) for one in await self._embed(tenant, model, [row["question"] for row in some])]

            def work(connection: Connection, some: Any = some, vectors: Any = vectors) -> None:
                values = [(model, one.tobytes(), tenant, row["id"]) for row, one in zip(some, vectors, strict=True)]
                connection.execute_many(self._sql["embed"], values)

            await self._database.transact(work)
            found += list(zip(some, vectors, strict=True))
        return found

    async def answer(self, tenant: str, app: str, query: str, settings: ReplySettings) -> Annotation | None:
        """The annotation that answers a question; None where none is near enough."""
        if not query.strip():
            return None
        rows = await self._rows("vectors", tenant=tenant, app=app)
        if not rows:
            return None
        best: Any = next((row for row in rows if row["question"].strip().lower() == query.strip().lower()), None)
        if best is None:
            known = await self._embedded(tenant, rows, settings.model)
            asked = _unit((await self._embed(tenant, settings.model, [query]))[0])
            score, best = max(((_dot(asked, vector), row) for row, vector in known), key=lambda one: one[0])
            if score < settings.score_threshold:
                return None
        await self._do("hit", (tenant, best["id"]))
        return Annotation(id=best["id"], question=best["question"], answer=best["answer"])


def _unit(vector: Sequence[float]) -> "array.array[float]":
    size = math.sqrt(sum(one * one for one in vector)) or 1.0
    return array.array("f", [one / size for one in vector])


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else -1.0


def _like(keyword: str) -> str:
    return f"%{keyword.lower()}%" if keyword else ""


def _checked(text: Any, what: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvokeBadRequestError(f"{what} is required", param=what)
    return text.strip()[:20_000]
