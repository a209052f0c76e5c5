"""Admin routes for what users said to an app: conversations, rated messages and
annotations."""

from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import optional_field, required_field, short_repr
from modelyard.gateway.admin.app_shapes import (
    AnnotationReplyView,
    AnnotationView,
    ConversationView,
    MessageView,
)
from modelyard.gateway.admin.requests import app_of, page_size
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.models.types import JSON
from modelyard.workflow.annotations import Annotations, ReplySettings
from modelyard.workflow.apps import Apps
from modelyard.workflow.conversations import Conversations, Message
from modelyard.workflow.features import Features

# An answer of messages can be long, and a page is read as a whole.
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
    features: Features

    @property
    def annotations(self) -> Annotations:
        """The repository of annotations."""
        return self.features.annotations

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
                id=row.id,
                question=row.question,
                answer=row.answer,
                hits=row.hits,
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

    async def change(self, request: Request) -> Reply:
        """Replace an annotation's question and answer.

        Raises NotFoundError, InvokeBadRequestError.
        """
        app_record = app_of(request, self.apps)
        body = await request.json()
        annotation = await self.annotations.update(
            app_record.tenant,
            app_record.id,
            request.names["annotation"],
            required_field(body, "question", str),
            required_field(body, "answer", str),
        )
        return json_reply(
            AnnotationView(
                id=annotation.id,
                question=annotation.question,
                answer=annotation.answer,
                hits=annotation.hits,
            )
        )

    async def settings(self, request: Request) -> Reply:
        """Return whether an app answers from annotations, and by which model and
        threshold.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        # An app without a published version can be set up too.
        app = await self.apps.draft(app_record)
        settings = await self.features.reply_settings(app_record, app)
        return json_reply(_reply_view(settings))

    async def change_settings(self, request: Request) -> Reply:
        """Change whether an app answers from annotations; fields that the request leaves
        out stay. Creates the missing vectors first, so that nothing changes if the
        embedding model cannot be called.

        Raises NotFoundError, InvokeBadRequestError and the provider's error.
        """
        app_record = app_of(request, self.apps)
        app = await self.apps.draft(app_record)
        current = await self.features.reply_settings(app_record, app)
        settings = _changed_settings(current, await request.json())
        if settings.enabled:
            await self.annotations.prepare(app_record.tenant, app_record.id, settings)
        await self.annotations.save_settings(app_record.tenant, app_record.id, settings)
        return json_reply(_reply_view(settings))

    async def remove(self, request: Request) -> Reply:
        """Delete an annotation.

        Raises NotFoundError.
        """
        app_record = app_of(request, self.apps)
        name = request.names["annotation"]
        await self.annotations.delete(app_record.tenant, app_record.id, name)
        return json_reply(Removed(id=name, deleted=True))


def _changed_settings(current: ReplySettings, body: JSON) -> ReplySettings:
    """Return the settings with the fields of a request. Raises InvokeBadRequestError."""
    enabled = optional_field(body, "enabled", bool)
    model = optional_field(body, "embedding_model", str)
    threshold = body.get("score_threshold")
    changes: dict[str, Any] = {}
    if enabled is not None:
        changes["enabled"] = enabled
    if threshold is not None:
        changes["score_threshold"] = _checked_threshold(threshold)
    if model is not None:
        # Clients of the service API send the two parts apart.
        provider, slash, name = model.partition("/")
        changes["embedding_provider_name"] = provider if slash else ""
        changes["embedding_model_name"] = name if slash else model
    return msgspec.structs.replace(current, **changes)


def _checked_threshold(value: Any) -> float:
    """Return a score threshold. Raises InvokeBadRequestError unless it is a number from
    0 to 1."""
    # bool is a subclass of int and would pass as 0 or 1.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        problem = f"must be a number from 0 to 1, not {short_repr(value)}"
        name = "score_threshold"
        raise InvokeBadRequestError(f"{name!r} {problem}", param=name)
    return float(value)


def _reply_view(settings: ReplySettings) -> AnnotationReplyView:
    """Return the view of an app's annotation settings."""
    return AnnotationReplyView(
        enabled=settings.enabled,
        score_threshold=settings.score_threshold,
        embedding_model=settings.model,
    )


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
