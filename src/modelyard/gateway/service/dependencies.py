"""Dependencies of the routes that run apps, and the protocol for translating a run's
events."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from modelyard.models.types import JSON
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore
from modelyard.workflow.app_library import AppLibrary
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.dsl import App
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.features import Features
from modelyard.workflow.form_answers import FormAnswers
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import Services
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDependencies:
    """The services that the service API's handlers work with, bundled for their
    construction."""

    apps: Apps
    library: AppLibrary
    runs: Runs
    chats: Chats
    form_answers: FormAnswers
    conversations: Conversations
    files: FileStore
    models: ModelManager
    features: Features
    services: Callable[[App, RunRecord | None], Services]
    """(app, run) → the services of the app's nodes."""
    origin: Callable[[], str]
    content_origin: Callable[[], str]
    """Returns the origin under which files, webhooks and plugin endpoints are served.
    """


class EventTranslator(Protocol):
    """Translates a run's events to the format of one API."""

    def feed(self, event: AnyEvent) -> Iterator[JSON]:
        """Yield the documents for one event; possibly none."""
        ...


async def translate_events(
    runs: Runs, run: RunRecord, translator: EventTranslator
) -> AsyncGenerator[JSON, None]:
    """Yield all documents for a run, from its start until it ends or pauses."""
    # aclosing ends the subscription even if the consumer stops early.
    async with aclosing(runs.watch(run.tenant, run.id)) as events:
        async for _, event in events:
            for document in translator.feed(event):
                yield document
