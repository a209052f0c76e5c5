"""A chat request on its way to a target: what the rules read, change and report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from modelyard.models.capabilities import Capabilities
from modelyard.models.entities import AIModelEntity
from modelyard.models.llm import LLMRequest, LLMResultChunk


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is sent to."""

    format: str
    """The wire format's own name, as in `LLMRequest.format`."""
    model: str
    capabilities: Capabilities
    schema: AIModelEntity | None
    """The model's entry in the catalogue; None if it is not listed."""
    parameters: frozenset[str]
    """The model parameters that the format can express."""


class Restorer(Protocol):
    """Changes the chunks of one answer back to what the caller expects."""

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk as the caller expects it."""
        ...

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return what was held back, at the end of the answer."""
        ...


@dataclass(slots=True)
class Draft:
    """A request that rules adapt one after the other."""

    request: LLMRequest
    target: Target
    dropped: list[str] = field(default_factory=list[str])
    """Names of the caller's fields that are left out, in the words of its format."""
    restorers: list[Callable[[], Restorer]] = field(
        default_factory=list[Callable[[], Restorer]]
    )
    """Each builds a restorer of one answer."""

    @property
    def is_same_format(self) -> bool:
        """Whether the caller speaks the target's format."""
        return self.request.format == self.target.format

    def change(self, **fields: Any) -> None:
        """Replace fields of the request."""
        self.request = msgspec.structs.replace(self.request, **fields)

    def change_parameters(self, **parameters: Any) -> None:
        """Set some model parameters."""
        self.change(model_parameters={**self.request.model_parameters, **parameters})

    def drop(self, name: str) -> None:
        """Report a field that is left out; the rule has removed it, or the format's
        writer will."""
        if name not in self.dropped:
            self.dropped.append(name)

    def drop_parameter(self, name: str) -> None:
        """Remove a model parameter and report it. Without effect if there is none."""
        parameters = dict(self.request.model_parameters)
        if parameters.pop(name, None) is not None:
            self.change(model_parameters=parameters)
            self.drop(name)
