"""Datasets as tools of an agent: one dataset, or a set of datasets that an agent's
package configures.

Both take a query from the model and return the texts of the segments, with their sources
for citations. A dataset of its own is searched with the default settings. A set has
settings of its own: how many segments, from which score, with which reranking, and which
documents.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from modelyard.base.json_types import EMPTY_OBJECT
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    model_safe_name,
    resources_message,
)
from modelyard.tools.manager import ToolRef
from modelyard.workflow.agent_packages import KnowledgeSet

_TOP_K = 4
_QUERY_SCHEMA = {
    "type": "object",
    "properties": {
        "query": {
            "type": "string",
            "description": "What to look for, in words of the texts.",
        }
    },
    "required": ["query"],
}


class Retrieval(msgspec.Struct, kw_only=True):
    """Retrieval settings of a dataset tool, in the form of a knowledge node's data."""

    dataset_ids: list[str] = []
    retrieval_mode: str = "multiple"
    multiple_retrieval_config: dict[str, Any] | None = None
    single_retrieval_config: dict[str, Any] | None = None
    metadata_filtering_mode: str = "disabled"
    metadata_model_config: dict[str, Any] | None = None
    metadata_filtering_conditions: Any = None


class DatasetTool(Tool):
    """A dataset as a tool: its segments are the result and its sources."""

    def __init__(self, datasets: Any, ref: ToolRef) -> None:
        self._datasets = datasets
        self._name = ref.provider or ref.name
        # Title and description help the model decide; not every implementation has
        # them.
        dataset_info = (
            datasets.about(self._name) if hasattr(datasets, "about") else None
        )
        title, description = dataset_info or (self._name, "")
        self.entity = _entity(
            ref.alias or f"dataset_{self._name.replace('-', '_')}",
            title,
            ref.description or description,
        )

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Yield the text of the retrieved segments and a message with their sources."""
        retrieval = Retrieval(
            dataset_ids=[self._name], multiple_retrieval_config={"top_k": _TOP_K}
        )
        segments = await self._datasets.retrieve(
            str(parameters["query"]), retrieval, files=()
        )
        # An empty result would look to the model as if the tool had failed.
        yield {
            "type": "text",
            "message": {"text": text_of_segments(segments) or "Nothing was found."},
        }
        yield resources_message(_sources(segments))


class KnowledgeSetTool(Tool):
    """A knowledge set of an agent's package as a tool that takes a query."""

    def __init__(self, datasets: Any, knowledge_set: KnowledgeSet) -> None:
        self._datasets = datasets
        self._retrieval = retrieval_of(knowledge_set)
        title = knowledge_set.name or knowledge_set.id
        # Sets may have any name, but vendors restrict those of tools.
        name = model_safe_name(f"search_{title}").strip("_")
        self.entity = _entity(name, title, knowledge_set.description)

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Yield the text of the retrieved segments and a message with their sources."""
        query = str(parameters["query"])
        segments = await self._datasets.retrieve(query, self._retrieval, files=())
        text = text_of_segments(segments) or "Nothing was found."
        yield {"type": "text", "message": {"text": text}}
        yield resources_message(_sources(segments))


def _entity(name: str, title: str, description: str) -> ToolEntity:
    """Return the description of a tool that searches `title`."""
    default = f"useful for when you want to answer queries about the {title}"
    return ToolEntity(
        name=name,
        provider=title,
        kind="dataset-retrieval",
        description=description or default,
        schema=_QUERY_SCHEMA,
        is_repeatable=True,
    )


def retrieval_of(knowledge_set: KnowledgeSet) -> Retrieval:
    """Return the retrieval settings of a knowledge set.

    Source: langgenius/dify, api/models/agent_config_entities.py.
    """
    settings = knowledge_set.retrieval
    metadata_filter = knowledge_set.metadata_filtering
    mode = "single" if settings.get("mode") == "single" else "multiple"
    multiple = {
        name: settings[name]
        for name in (
            "top_k",
            "score_threshold",
            "reranking_mode",
            "reranking_enable",
            "reranking_model",
            "weights",
        )
        if settings.get(name) is not None
    }
    return Retrieval(
        dataset_ids=knowledge_set.dataset_names,
        retrieval_mode=mode,
        multiple_retrieval_config={"top_k": _TOP_K, **multiple},
        single_retrieval_config={"model": settings.get("model")},
        metadata_filtering_mode=metadata_filter.mode,
        metadata_model_config=metadata_filter.model,
        metadata_filtering_conditions=metadata_filter.conditions,
    )


def text_of_segments(segments: list[dict[str, Any]]) -> str:
    """Return the texts of retrieved segments, one below the other."""
    return "\n".join(str(segment["content"]) for segment in segments)


def _sources(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return retrieved segments as the sources of an answer."""
    return [_source(segment) for segment in segments]


def _source(segment: dict[str, Any]) -> dict[str, Any]:
    """Return a retrieved segment as a source: its metadata, with its text and title."""
    metadata = segment.get("metadata") or EMPTY_OBJECT
    # A field of the metadata must not replace the text.
    return {**metadata, "content": segment["content"], "title": segment["title"]}
