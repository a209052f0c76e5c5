"""What routes that run apps work with, and a run's events in the words of whoever asks."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from modelyard.models.types import JSON
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.features import Features
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceParts:
    apps: Apps
    runs: Runs
    chats: Chats
    conversations: Conversations
    files: FileStore
    models: ModelManager
    features: Features
    origin: Callable[[], str]
    content_origin: Callable[[], str]
    """Where files, webhooks and plugins' addresses are reached."""


class Telling(Protocol):
    """A run's events in the words of one interface."""

    def feed(self, event: AnyEvent) -> Iterator[JSON]: ...


async def fed(runs: Runs, run: RunRecord, told: Telling) -> AsyncGenerator[JSON, None]:
    """All that is told of a run, from its beginning until it ends or pauses."""
    async with aclosing(runs.watch(run.tenant, run.id)) as events:
        async for _, event in events:
            for one in told.feed(event):
                yield one
