"""What people said to an app, in the admin API: conversations, rated messages, answers that are given as they stand."""

from dataclasses import dataclass

from modelyard.base.fields import need
from modelyard.gateway.admin.app_shapes import AnnotationShown, ConversationShown, MessageShown
from modelyard.gateway.admin.requests import app_of, count_of
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.apps import Apps
from modelyard.workflow.conversations import Conversations, Message

_MOST_MESSAGES = 200


@dataclass(frozen=True, slots=True)
class AppConversations:
    """All users' of an app."""

    apps: Apps
    conversations: Conversations

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        found = app_of(request, self.apps)
        rows = await self.conversations.of_app(found.tenant, found.id, most=_MOST_MESSAGES)
        shown = [
            ConversationShown(
                id=row.id, name=row.name, user=row.user, created_at=row.created_at, updated_at=row.updated_at
            )
            for row in rows
        ]
        return json_reply({"data": shown})

    async def messages(self, request: Request) -> Reply:
        """Of one conversation. Raises NotFoundError."""
        found = app_of(request, self.apps)
        rows = await self.conversations.thread(found.tenant, request.names["conversation"], most=_MOST_MESSAGES)
        return json_reply({"data": [_message(row) for row in rows if row.app == found.id]})

    async def feedback(self, request: Request) -> Reply:
        """Messages that people rated. Raises NotFoundError."""
        found = app_of(request, self.apps)
        rated = await self.conversations.rated(found.tenant, found.id, most=_MOST_MESSAGES, skip=0)
        return json_reply({"data": [_message(row) for row in rated]})


@dataclass(frozen=True, slots=True)
class AppAnnotations:
    """Answers of an app that are given as they stand."""

    apps: Apps
    kept: Annotations

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        rows = await self.kept.page(found.tenant, found.id, most=count_of(request, "limit", 100), skip=0)
        shown = [AnnotationShown(id=row.id, question=row.question, answer=row.answer, hits=row.hits) for row in rows]
        return json_reply({"data": shown})

    async def add(self, request: Request) -> Reply:
        """Raises NotFoundError, InvokeBadRequestError."""
        found = app_of(request, self.apps)
        body = await request.json()
        made = await self.kept.add(found.tenant, found.id, need(body, "question", str), need(body, "answer", str))
        shown = AnnotationShown(id=made.id, question=made.question, answer=made.answer, hits=0)
        return json_reply(shown, status=201)

    async def remove(self, request: Request) -> Reply:
        """Raises NotFoundError."""
        found = app_of(request, self.apps)
        name = request.names["annotation"]
        await self.kept.remove(found.tenant, found.id, name)
        return json_reply(Removed(id=name, deleted=True))


def _message(one: Message) -> MessageShown:
    return MessageShown(
        id=one.id, query=one.query, answer=one.answer, status=one.status, error=one.error, run=one.run,
        rating=one.rating, created_at=one.created_at, thoughts=one.metadata.get("agent_thoughts") or [],
        usage=one.metadata.get("usage") or {},
    )  # fmt: skip
