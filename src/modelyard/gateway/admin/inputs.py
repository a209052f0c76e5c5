"""What is sent to the admin API.

Handlers read it field by field, so that an error names the field and says what would be right; these are for whoever
writes a request. A field with a default may be left out, or be null.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from modelyard.administration.inputs import INPUTS
from modelyard.knowledge.evaluations import Question
from modelyard.tools.api import Auth


def _new(kind: str, shape: type[Any]) -> type[msgspec.Struct]:
    """What makes a thing: its name, and what may be said of its kind."""
    return msgspec.defstruct(
        f"{kind.title()}Input", [("name", str)], bases=(shape,), frozen=True, kw_only=True, forbid_unknown_fields=True
    )


def _change(kind: str, shape: type[Any]) -> type[msgspec.Struct]:
    """What changes a thing: fields that are missing stay as they were."""
    changed: list[tuple[str, Any, Any]] = [
        (field.name, field.type | msgspec.UnsetType, msgspec.UNSET) for field in msgspec.structs.fields(shape)
    ]
    named = ("name", str | msgspec.UnsetType, msgspec.UNSET)
    return msgspec.defstruct(
        f"{kind.title()}ChangeInput", [named, *changed], frozen=True, kw_only=True, forbid_unknown_fields=True
    )


NEW: Mapping[str, type[msgspec.Struct]] = {kind: _new(kind, shape) for kind, shape in INPUTS.items()}
"""Kind → what is sent to make one."""
CHANGES: Mapping[str, type[msgspec.Struct]] = {kind: _change(kind, shape) for kind, shape in INPUTS.items()}
"""Kind → what is sent to change one."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """An object of a request."""


# ------------------------------------------------------------------------------------ keys, providers, calls


class RotationInput(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    """For so long the old key serves too."""


class FormInput(Input, frozen=True, kw_only=True):
    values: dict[str, Any]
    """A provider's form, filled in."""


class PlanInput(Input, frozen=True, kw_only=True):
    model: str
    type: str | None = None
    """A model type; llm where nothing is said."""
    user: str | None = None
    key: str | None = None


class ReplayInput(Input, frozen=True, kw_only=True):
    model: str
    """Which model is asked this time."""


# ------------------------------------------------------------------------------------ plugins and tools


class GrantInput(Input, frozen=True, kw_only=True):
    granted: list[str]
    """What the plugin may ask its host for."""


class MarketInput(Input, frozen=True, kw_only=True):
    id: str
    version: str | None = None
    """The newest where nothing is said."""


class SubscriptionInput(Input, frozen=True, kw_only=True):
    plugin: str
    name: str
    parameters: dict[str, Any] | None = None
    credentials: dict[str, Any] | None = None


class ClientInput(Input, frozen=True, kw_only=True):
    provider: str
    values: dict[str, Any] | None = None
    """The client's form: what the provider gave for this server."""


class ConnectionInput(Input, frozen=True, kw_only=True):
    provider: str
    name: str | None = None
    user: str | None = None
    """Whose account it is; everybody's where nothing is said."""


class ToolCallInput(Input, frozen=True, kw_only=True):
    tool: str
    """`name`, `provider/name` or `kind:provider/name`."""
    arguments: dict[str, Any] | None = None
    credential: str | None = None
    """A stored credential's id; the provider's own where nothing is said."""


class ToolProviderInput(Input, frozen=True, kw_only=True):
    name: str
    type: Literal["api", "mcp", "extension"]
    url: str | None = None
    """Where the API's description is, or the server."""
    description: str | dict[str, Any] | None = None
    """An API's description itself, as OpenAPI 3 or Swagger 2."""
    server: str | None = None
    """Where an API's calls go, where its description does not say or says otherwise."""
    auth: Auth | None = None
    headers: dict[str, str] | None = None
    """What is shown to an MCP server."""
    stdio: str | None = None
    """Under which name an administrator registered an MCP server's program."""
    key: str | None = None
    """What is shown to an extension."""


class RefreshInput(Input, frozen=True, kw_only=True):
    accept: bool | str | None = None
    """true, or the digest of the changes that were shown."""
    confirm_origin: str | list[str] | None = None
    """Servers to which calls may go from now on."""


# ------------------------------------------------------------------------------------ apps


class AppInput(Input, frozen=True, kw_only=True):
    file: str
    """The app's YAML."""
    name: str | None = None
    mapping: dict[str, Any] | None = None
    """What the file's models, tools and datasets are here."""
    publish: bool | None = None
    """false to keep it as a draft."""
    note: str | None = None


class AppFileInput(Input, frozen=True, kw_only=True):
    file: str
    name: str | None = None


class PageInput(Input, frozen=True, kw_only=True):
    is_on: bool | None = None
    origins: list[str] | None = None
    """Sites that may show the page within theirs."""


class AppChangeInput(Input, frozen=True, kw_only=True):
    is_enabled: bool | None = None
    page: PageInput | None = None


class DraftInput(Input, frozen=True, kw_only=True):
    file: str
    base: str | None = None
    """The digest of the draft that its author began with."""


class PublicationInput(Input, frozen=True, kw_only=True):
    name: str | None = None
    note: str | None = None


class VersionInput(Input, frozen=True, kw_only=True):
    version: str
    """A version's digest."""


class RunInput(Input, frozen=True, kw_only=True):
    inputs: dict[str, Any] | None = None
    query: str | None = None
    """What a chat app is asked."""
    conversation: str | None = None
    draft: bool | None = None
    """true for what is not published yet."""
    root: str | None = None
    """The node that begins the run; the first where nothing is said."""


class NodeTestInput(Input, frozen=True, kw_only=True):
    file: str
    node: str
    inputs: dict[str, Any] | None = None
    """What it reads, as `start.query` → value."""


class AnnotationInput(Input, frozen=True, kw_only=True):
    question: str
    answer: str


# ------------------------------------------------------------------------------------ datasets, the server


class SplitInput(Input, frozen=True, kw_only=True):
    text: str
    process_rule: dict[str, Any] | None = None
    """As a dataset's."""


class EvaluationInput(Input, frozen=True, kw_only=True):
    questions: list[Question]
    ways: list[str] | None = None
    """Ways to search; all where nothing is said."""


class WritingInput(Input, frozen=True, kw_only=True):
    count: int | None = None
    """Of questions; 20 where nothing is said."""
    model: str | None = None


class SettingsInput(Input, frozen=True, kw_only=True):
    text: str
    """The file; secrets that are struck out in it stay as they are."""
