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

ReasoningStyle = Literal[
    "effort", "thinking", "thinking_effort", "enable_thinking", "openrouter"
]
"""How a server's requests control reasoning; see `Capabilities.reasoning`."""

EffortWord = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model should think, from not at all to as much as it can."""


class Thinking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the thinking of a model is controlled, and within which limits."""

    control: Literal["none", "effort", "budget", "adaptive"]
    """`none` if the model does not think or has no control for it, `effort` for words
    alone, `budget` for a number of tokens alone, `adaptive` for Anthropic's adaptive
    thinking with words for its depth."""
    words: tuple[EffortWord, ...] = ()
    """The words that the model takes. With `none` among them, the control `effort` can
    switch thinking off."""
    default: EffortWord | None = None
    """What a request without a word gets; None if it thinks in some measure."""
    min_budget: _TextCount = 0
    """The smallest budget of a model that thinks, in tokens."""
    max_budget: _TextCount = 1_000_000
    can_be_off: bool = True
    """Whether a budget of 0, or Anthropic's `disabled`, is accepted."""
    takes_budget: bool = False
    """Whether an adaptive model still accepts a budget."""


Sampling = Literal["any", "while_not_thinking", "never"]
"""When a model accepts sampling parameters; see `Capabilities.sampling`."""


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

    fields: tuple[_Name, ...] = ()
    """The only fields that a chat request may have, for servers that reject any other.
    Empty if there is no such list."""
    thinking: Thinking | None = None
    """How thinking is controlled. None if that is not known: then it is written in the
    way that is usual for the format."""
    sampling: Sampling = "any"
    """When temperature, top_p, top_k and the like are accepted."""
    temperature_or_top_p: bool = False
    """Whether the two are refused beside each other."""
    max_output: _TokenCount | None = None
    """The most tokens that an answer may have. None if the catalogue's number applies,
    or none is known."""
    max_stop_sequences: _TextCount | None = None
    """The largest number of stop sequences. None stands for the format's own."""
    prefill: Literal["accepted", "marked", "refused"] = "accepted"
    """Whether a conversation may end with a message of the assistant, which the answer
    continues: as it is, with Mistral's mark `prefix`, or not at all."""
    checks_signatures: bool = True
    """Whether Gemini's format requires signatures of function calls."""
    unsigned_thoughts: bool = False
    """Whether Anthropic's format is spoken by a server that takes earlier thoughts
    without a signature."""
    signature_family: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Models of one family accept each other's signatures of thoughts."""

    # OpenAI's formats.
    developer_role: bool = False
    """Whether a chat may have messages of the role `developer`."""
    system_first: bool = False
    """Whether a message of the system may only be the first one of a chat, as the
    templates of many models require. Others become texts of the user."""
    system_between: bool = False
    """Whether messages of the system may stand between the turns without a beta name,
    as at Claude Opus 4.8 and later."""
    cache_marks: bool = False
    """Whether content parts and tools may have Anthropic's `cache_control`."""
    rename: Mapping[_Name, _Name] = {}
    """Field of the format → the server's name for it. Applied after `drop`."""
    max_tokens_field: _Name = "max_tokens"
    """The server's name for `max_tokens` of a chat request."""
    no_stream_options: bool = False
    """Whether the server rejects `stream_options`."""
    reasoning: ReasoningStyle = "effort"
    """How a chat request controls reasoning: by `reasoning_effort` as OpenAI's does, by
    an object `thinking`, by both, by `enable_thinking` with a budget, or by
    OpenRouter's object `reasoning`."""
    reasoning_field: Annotated[str, msgspec.Meta(max_length=200)] = "reasoning_content"
    """Field of an assistant message in which the server expects the model's earlier
    reasoning. Empty if it accepts none."""
    reasoning_with_calls: bool = False
    """Whether the server requires earlier reasoning in turns with tool calls, and
    rejects or ignores it in others."""
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
