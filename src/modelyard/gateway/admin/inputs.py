"""Request bodies of the admin API, for its documentation and for client authors.

The handlers read the bodies field by field, so that an error can name the field and the
accepted values. A field with a default may be left out or be null.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from modelyard.administration.inputs import INPUTS
from modelyard.knowledge.evaluations import Question
from modelyard.tools.api import Auth


def _create_body(resource_type: str, shape: type[Any]) -> type[msgspec.Struct]:
    """Return the type of the body that creates a resource: its name and the fields of
    its type."""
    return msgspec.defstruct(
        f"{resource_type.title()}Input",
        [("name", str)],
        bases=(shape,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def _update_body(resource_type: str, shape: type[Any]) -> type[msgspec.Struct]:
    """Return the type of the body that changes a resource. Fields that are left out
    keep their value."""
    # UNSET separates a field that is left out from one that is set to null.
    changed: list[tuple[str, Any, Any]] = [
        (field.name, field.type | msgspec.UnsetType, msgspec.UNSET)
        for field in msgspec.structs.fields(shape)
    ]
    name_field = ("name", str | msgspec.UnsetType, msgspec.UNSET)
    return msgspec.defstruct(
        f"{resource_type.title()}ChangeInput",
        [name_field, *changed],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


NEW: Mapping[str, type[msgspec.Struct]] = {
    resource_type: _create_body(resource_type, shape)
    for resource_type, shape in INPUTS.items()
}
"""Resource type → body of the request that creates one."""
CHANGES: Mapping[str, type[msgspec.Struct]] = {
    resource_type: _update_body(resource_type, shape)
    for resource_type, shape in INPUTS.items()
}
"""Resource type → body of the request that changes one."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the request bodies."""


# --------------------------------------------------------------- keys, providers, calls


class RotationInput(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rotation of an API key."""

    # About 30 years: the end of the period must be a valid time.
    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    """Seconds for which the old key stays valid."""


class FormInput(Input, frozen=True, kw_only=True):
    """Credentials to be checked."""

    values: dict[str, Any]
    """The values of the provider's credential form, or of its form for models."""
    model: str = ""
    """The model to try them with; providers without a list of models need it."""
    model_type: str = ""
    """The type of that model; `llm` if it is empty."""


class PlanInput(Input, frozen=True, kw_only=True):
    """A call for which the routing plan is requested."""

    model: str
    type: str | None = None
    """A model type; llm by default."""
    user: str | None = None
    key: str | None = None


class ReplayInput(Input, frozen=True, kw_only=True):
    """Repetition of a recorded call."""

    model: str
    """The model to call this time."""


# -------------------------------------------------------------------- plugins and tools


class GrantInput(Input, frozen=True, kw_only=True):
    """Permissions for a plugin."""

    granted: list[str]
    """The host functions that the plugin may call."""
    network: bool | None = None
    """Whether it may connect to hosts other than this server; unchanged by default."""


class MarketInput(Input, frozen=True, kw_only=True):
    """A plugin to install from a marketplace."""

    id: str
    version: str | None = None
    """The newest version by default."""
    granted: list[str] | None = None
    """The permissions to grant; by default those that the plugin requests, or those of
    the version that is installed."""
    network: bool | None = None
    """Whether it may connect to hosts other than this server."""


class SubscriptionInput(Input, frozen=True, kw_only=True):
    """A subscription to a trigger provider."""

    plugin: str
    name: str
    parameters: dict[str, Any] | None = None
    credentials: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None
    """For a subscription by hand: what verifies the provider's calls, such as a signing
    secret. Nothing is asked of the provider then; enter the address there."""


class ClientInput(Input, frozen=True, kw_only=True):
    """An OAuth client for a provider."""

    provider: str
    values: dict[str, Any] | None = None
    """The values of the client form, as the provider issued them for this server."""


class ConnectionInput(Input, frozen=True, kw_only=True):
    """Start of an OAuth connection."""

    provider: str
    name: str | None = None
    user: str | None = None
    """User to whom the account belongs; shared by the whole tenant by default."""


class ToolCallInput(Input, frozen=True, kw_only=True):
    """A tool call."""

    tool: str
    """`name`, `provider/name` or `kind:provider/name`."""
    arguments: dict[str, Any] | None = None
    credential: str | None = None
    """Id of a stored credential; the default one of the provider if left out."""


class ToolProviderInput(Input, frozen=True, kw_only=True):
    """A tool provider to add: an API, an MCP server or an extension."""

    name: str
    type: Literal["api", "mcp", "extension"]
    url: str | None = None
    """URL of the API's description, or of the server."""
    description: str | dict[str, Any] | None = None
    """The API's description itself, in OpenAPI 3 or Swagger 2."""
    server: str | None = None
    """Base URL of the API, if the description has none or a wrong one."""
    auth: Auth | None = None
    headers: dict[str, str] | None = None
    """Headers for an MCP server."""
    stdio: str | None = None
    """Name under which an administrator registered the program of an MCP server."""
    key: str | None = None
    """Key that is sent to an extension."""


class RefreshInput(Input, frozen=True, kw_only=True):
    """Refresh of a tool provider's description."""

    accept: bool | str | None = None
    """true, or the digest of the changes that were reviewed."""
    confirm_origin: str | list[str] | None = None
    """Origins to which calls may be sent from now on."""


# ------------------------------------------------------------------------------------ apps


class AppKeyInput(Input, frozen=True, kw_only=True):
    """Rights of a new API key of an app."""

    speaks_for_users: bool = False
    """Whether its caller may name the user on whose behalf the app reads documents; only
    administrators give this right."""


class AppInput(Input, frozen=True, kw_only=True):
    """An app to import."""

    file: str
    """The app in YAML."""
    name: str | None = None
    mapping: dict[str, Any] | None = None
    """The local models, tools and datasets for those that the file names."""
    publish: bool | None = None
    """false to import it as a draft."""
    note: str | None = None
    secrets: dict[str, str] | None = None
    """Values of secret variables by name. Exported files leave them out."""


class AppFileInput(Input, frozen=True, kw_only=True):
    """An app's file to check."""

    file: str
    name: str | None = None


class PageInput(Input, frozen=True, kw_only=True):
    """Settings of an app's public page."""

    is_on: bool | None = None
    origins: list[str] | None = None
    """Origins that may embed the page."""


class AppChangeInput(Input, frozen=True, kw_only=True):
    """A change of an app or its page; omitted fields stay unchanged."""

    name: str | None = None
    description: str | None = None
    icon: str | None = None
    icon_type: Literal["emoji", "image", "link"] | None = None
    icon_background: str | None = None
    """A colour, for example #FFEAD5."""
    tags: list[str] | None = None
    """All tags of the app, by id or name."""
    is_enabled: bool | None = None
    page: PageInput | None = None
    secrets: dict[str, str] | None = None
    """Values of secret variables by name; other variables keep theirs."""


class AppCopyInput(Input, frozen=True, kw_only=True):
    """A copy of an app."""

    name: str | None = None
    """Name of the copy. Default: the app's name, followed by "copy"."""
    publish: bool | None = None
    """true to publish it; otherwise it is a draft."""


class AppTemplateInput(Input, frozen=True, kw_only=True):
    """An app to create from a template."""

    name: str | None = None
    """Default: the template's name."""
    model: str | None = None
    """Model or route of its nodes. Default: the tenant's default model."""
    dataset: str | None = None
    """Dataset, by id or name, for templates that need one."""
    publish: bool | None = None
    """false to create a draft."""


class AppTagInput(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name of a tag."""

    name: str


class DraftInput(Input, frozen=True, kw_only=True):
    """A draft to store."""

    file: str
    base: str | None = None
    """Digest of the draft that the author started from."""


class PublicationInput(Input, frozen=True, kw_only=True):
    """Name and note of a published version."""

    name: str | None = None
    note: str | None = None


class VersionInput(Input, frozen=True, kw_only=True):
    """The version to restore."""

    version: str
    """Digest of the version."""


class RunInput(Input, frozen=True, kw_only=True):
    """A run to start."""

    inputs: dict[str, Any] | None = None
    query: str | None = None
    """The user's message to a chat app."""
    conversation: str | None = None
    draft: bool | None = None
    """true to run the version that is not published yet."""
    root: str | None = None
    """Node at which the run starts; the first start node by default."""


class NodeTestInput(Input, frozen=True, kw_only=True):
    """A single node to run."""

    file: str
    node: str
    inputs: dict[str, Any] | None = None
    """The variables that the node reads, as `start.query` → value."""


class TraceDestinationInput(Input, frozen=True, kw_only=True):
    """Where the traces of an app's runs are sent."""

    service: str
    """langfuse, langsmith, phoenix, opik, or otlp for any other."""
    base_url: str = ""
    """Address of the service; may be empty for those with one installation."""
    project: str = ""
    credentials: dict[str, str] | None = None
    """Keys of the service; for `otlp` the request headers. Omitted, the stored ones
    stay; then address and project have to stay too."""
    content: bool = True
    """Whether spans have inputs and outputs."""
    is_enabled: bool = True


class AnnotationInput(Input, frozen=True, kw_only=True):
    """A fixed answer to a question."""

    question: str
    answer: str


class GenerationInput(Input, frozen=True, kw_only=True):
    """What to generate."""

    instruction: str
    """At most 20,000 characters."""
    model: str | None = None
    """Model or route. Default: the tenant's default model."""
    current: str | None = None
    """The present text, to be changed as the instruction says."""


class CodeGenerationInput(GenerationInput, frozen=True, kw_only=True):
    """The program to generate."""

    language: Literal["python3", "javascript"] = "python3"


class CodeNetworkInput(Input, frozen=True, kw_only=True):
    """Whether the code nodes of an app may use the network."""

    enabled: bool | None
    """null to leave it to the tenant and the settings."""


class AnnotationReplyInput(Input, frozen=True, kw_only=True):
    """A change of annotation replies; omitted fields stay unchanged."""

    enabled: bool | None = None
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    embedding_model: str | None = None
    """`provider/model`; empty for the tenant's default."""


# ----------------------------------------------------------------- datasets, the server


class SplitInput(Input, frozen=True, kw_only=True):
    """A text to split for a preview."""

    text: str
    process_rule: dict[str, Any] | None = None
    """The splitting rule, as in a dataset."""


class EvaluationInput(Input, frozen=True, kw_only=True):
    """An evaluation to run."""

    questions: list[Question] | None = None
    """Required without `lines`."""
    lines: str | None = None
    """The questions as text, one a line: `QUESTION => DOCUMENT | DOCUMENT`."""
    ways: list[str] | None = None
    """Search methods to compare; all by default."""


class WritingInput(Input, frozen=True, kw_only=True):
    """Questions to be generated by a model."""

    count: int | None = None
    """Number of questions; 20 by default."""
    model: str | None = None


class SettingsInput(Input, frozen=True, kw_only=True):
    """A new settings file."""

    text: str
    """The text of the file; secrets that are masked in it keep their value."""
    version: int | None = None
    """The version that was changed. If there is another one by now, the change is
    refused."""
