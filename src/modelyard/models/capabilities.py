"""What a server accepts, beyond or short of its wire format.

Provider files state it under `quirks`, for the provider and for single models. The
writers in `wire/` read it for every request. The defaults describe a server without any
deviation.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from modelyard.models.embedding import EmbeddingInputType

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_TextCount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_TokenCount = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]

ReasoningStyle = Literal["effort", "thinking", "enable_thinking", "openrouter"]
"""How a server's requests control reasoning; see `Capabilities.reasoning`."""


class InputTypeField(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A server's field for the purpose of an embedding, with its values."""

    field: _Name
    query: _Name
    document: _Name

    def value_of(self, input_type: EmbeddingInputType) -> str:
        """Return the server's value for an input type."""
        if input_type is EmbeddingInputType.QUERY:
            return self.query
        return self.document


class Capabilities(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What a server accepts. Each field is one quirk of a provider file."""

    # All formats.
    drop: tuple[_Name, ...] = ()
    """Fields that the server rejects; they are omitted from requests."""

    # OpenAI's formats.
    rename: Mapping[_Name, _Name] = {}
    """Field of the format → the server's name for it. Applied after `drop`."""
    max_tokens_field: _Name = "max_tokens"
    """The server's name for `max_tokens` of a chat request."""
    no_stream_options: bool = False
    """Whether the server rejects `stream_options`."""
    reasoning: ReasoningStyle = "effort"
    """How a chat request controls reasoning: by `reasoning_effort` as OpenAI's does, by
    an object `thinking`, by `enable_thinking` with a budget, or by OpenRouter's
    object `reasoning`."""
    reasoning_field: Annotated[str, msgspec.Meta(max_length=200)] = "reasoning_content"
    """Field of an assistant message in which the server expects the model's earlier
    reasoning. Empty if it accepts none."""
    thinking_parts: bool = False
    """Whether reasoning is a part of a message's content, as in Mistral's API."""
    think_tags: bool = False
    """Whether the server writes reasoning into the text, between `<think>` and
    `</think>`."""
    required_tool_choice: _Name = "required"
    """The server's value for the tool choice `required`."""
    custom_tools: bool = False
    """Whether chat requests may have tools of the type `custom`, which take text."""
    max_tools: _TextCount = 0
    """Largest number of tools in one request; 0 for no limit."""

    # Embeddings.
    input_type: InputTypeField | None = None
    """The server's field for the purpose of an embedding. None if it has none."""
    max_texts: _TextCount = 0
    """Largest number of texts in one embedding call; 0 for no limit. Calls that arrive
    together are merged up to this number."""

    # Speech.
    default_voice: _Name | None = None
    """The voice of a request that names none. None stands for the format's own."""
    plain_transcripts: tuple[_Name, ...] = ()
    """Prefixes of the names of models that return transcripts as plain JSON only."""

    # Anthropic's format.
    max_tokens: _TokenCount | None = None
    """Output limit of a request that has none, which the format requires. None stands
    for the format's own."""
    adaptive_thinking: bool = False
    """Whether a model reasons by effort. Without it an effort is written as a budget in
    tokens."""
    structured: Literal["output_config", "output_format"] = "output_config"
    """The field for the JSON schema of an answer. `output_format` is the older one."""


DEFAULT_CAPABILITIES = Capabilities()
"""Those of a server that does not deviate from its wire format."""
