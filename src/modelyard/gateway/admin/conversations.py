"""Admin routes for what users said to an app: conversations, rated messages and
annotations."""

from dataclasses import dataclass

from modelyard.base.fields import required_field
from modelyard.gateway.admin.app_shapes import (
    AnnotationView,
    ConversationView,
    MessageView,
)
from modelyard.gateway.admin.requests import app_of, page_size
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.apps import Apps
from modelyard.workflow.conversations import Conversations, Message

_MAX_MESSAGES = 200


@dataclass(frozen=True, slots=True)
class AppConversations:
    """Routes for the conversations of all users with an app."""

    apps: Apps
    conversations: Conversations

    async def list_conversations(self, request: Request) -> Reply:
        """List the latest conversations of an app.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        rows = await self.conversations.of_app(
            app_record.tenant, app_record.id, limit=_MAX_MESSAGES
        )
        conversation_views = [
            ConversationView(
                id=row.id,
                name=row.name,
                user=row.user,
                created_at=row.created_at,
                updated_at=row.updated_at,
            )
            for row in rows
        ]
        return json_reply({"data": conversation_views})

    async def messages(self, request: Request) -> Reply:
        """List the messages of a conversation.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        rows = await self.conversations.list_messages(
            app_record.tenant, request.names["conversation"], limit=_MAX_MESSAGES
        )
        # The lookup is by tenant, so messages of the tenant's other apps are filtered
        # out here.
        return json_reply(
            {"data": [_message(row) for row in rows if row.app == app_record.id]}
        )

    async def feedback(self, request: Request) -> Reply:
        """List the messages that users rated.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        rated = await self.conversations.list_rated(
            app_record.tenant, app_record.id, limit=_MAX_MESSAGES, skip=0
        )
        return json_reply({"data": [_message(row) for row in rated]})


@dataclass(frozen=True, slots=True)
class AppAnnotations:
    """Routes for annotations: fixed answers that an app gives to known questions."""

    apps: Apps
    annotations: Annotations

    async def listed(self, request: Request) -> Reply:
        """List the annotations of an app.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        rows = await self.annotations.page(
            app_record.tenant,
            app_record.id,
            limit=page_size(request, "limit", 100),
            skip=0,
        )
        annotation_views = [
            AnnotationView(
                id=row.id, question=row.question, answer=row.answer, hits=row.hits
            )
            for row in rows
        ]
        return json_reply({"data": annotation_views})

    async def add(self, request: Request) -> Reply:
        """Add an annotation.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        body = await request.json()
        annotation = await self.annotations.add(
            app_record.tenant,
            app_record.id,
            required_field(body, "question", str),
            required_field(body, "answer", str),
        )
        view = AnnotationView(
            id=annotation.id,
            question=annotation.question,
            answer=annotation.answer,
            hits=0,
        )
        return json_reply(view, status=201)

    async def remove(self, request: Request) -> Reply:
        """Delete an annotation.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        name = request.names["annotation"]
        await self.annotations.delete(app_record.tenant, app_record.id, name)
        return json_reply(Removed(id=name, deleted=True))


def _message(message: Message) -> MessageView:
    """Return the view of a message."""
    return MessageView(
        id=message.id,
        query=message.query,
        answer=message.answer,
        status=message.status,
        error=message.error,
        run=message.run,
        # Thoughts and usage are optional metadata: only agents and model nodes record
        # them.
        rating=message.rating,
        created_at=message.created_at,
        thoughts=message.metadata.get("agent_thoughts") or [],
        usage=message.metadata.get("usage") or {},
    )
