"""Agents in app files of Dify 1.16 and later (format version 0.7.0): the packages that a
file carries, the tasks of agent nodes, and what of them cannot work here. No I/O.

A package holds an agent's "soul": its prompt, model, tools, knowledge and contacts, and
the features of its app. Skills, files and credentials are not part of a file.

The sections of a file, with their most important fields:

    app: {name, mode: agent}             # or a mode with a workflow
    agent: {package_ref}                 # the agent of an app of mode `agent`
    agent_packages:
      agent_1:                           # the name to which `package_ref` refers
        schema_version: 1
        metadata: {name, description, role, icon_type, icon, icon_background}
        soul:
          schema_version: 1
          prompt: {system_prompt}        # with mentions, as [§tool:provider/name§]
          model: {plugin_id, model_provider, model, model_settings}
          tools:
            dify_tools: [{provider_type, provider_id, tool_name, runtime_parameters}]
            cli_tools: [{id, name, command}]
          knowledge:
            sets: [{id, name, datasets, query, retrieval, metadata_filtering}]
          human: {contacts: [{name, email, channel}]}
          env: {variables, secret_refs}
          config_skills: [{name}]        # without their content
          config_files: [{name}]
          config_note: text
          app_features: {opening_statement, suggested_questions, file_upload}
          app_variables: [{name, type, required, default}]
        omitted_assets: [{kind, name}]

The data of an agent node in a workflow:

    type: agent
    version: "2"
    agent_node_kind: dify_agent
    agent_binding: {binding_type, package_ref}
    agent_job:
      schema_version: 1
      mode: tell_agent_what_to_do
      workflow_prompt: text              # with selectors and mentions
      previous_node_output_refs: [{selector}]
      declared_outputs: [{name, type, required, failure_strategy}]
      human_contacts: [{id, name, email}]
      metadata: {file_refs}

Source: langgenius/dify, api/services/agent/dsl_entities.py and dsl_service.py (the
package), api/models/agent_config_entities.py (the soul and the task),
api/core/app/apps/agent_app/app_variable_projection.py (types of the input form).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import EMPTY_OBJECT, is_mapping
from modelyard.workflow.declared_outputs import DeclaredOutput
from modelyard.workflow.node import NodeData
from modelyard.workflow.prompts import MemoryConfig

START, AGENT, ANSWER = "start", "agent", "answer"
_FORM_TYPES = {
    "number": "number",
    "integer": "number",
    "float": "number",
    "boolean": "checkbox",
    "bool": "checkbox",
    "paragraph": "paragraph",
    "long_text": "paragraph",
    "multiline": "paragraph",
    "select": "select",
    "json": "json_object",
    "json_object": "json_object",
}
_FILE_UPLOAD = {
    "enabled": True,
    "allowed_file_types": ["document", "image", "audio", "video"],
    "allowed_file_extensions": ["JPG", "JPEG", "PNG", "GIF", "WEBP", "SVG"],
    "allowed_file_upload_methods": ["local_file", "remote_url"],
    "number_limits": 3,
}
"""The file upload of an agent whose package does not configure it."""


# ------------------------------------------------------------------------- the package


class PackageMetadata(msgspec.Struct, kw_only=True):
    """How an agent is shown."""

    name: str = ""
    """The agent's name."""
    description: str = ""
    """What the agent is for; also the description of its app."""
    role: str = ""
    """The agent's role, as text."""
    icon_type: str = ""
    """emoji, image or link."""
    icon: str = ""
    """The emoji, or the address of a picture."""
    icon_background: str = ""
    """A CSS colour."""


class NamedAsset(msgspec.Struct, kw_only=True):
    """A skill or file of an agent. Its content is not in the file."""

    name: str = ""
    """The file name, or the name of the skill."""
    kind: str = "file"
    """skill or file."""


class SoulPrompt(msgspec.Struct, kw_only=True):
    """The instruction of an agent."""

    system_prompt: str = ""
    """The system prompt, with mentions and `{{name}}` of variables."""


class SoulModel(msgspec.Struct, kw_only=True):
    """The model of an agent and its parameters."""

    plugin_id: str = ""
    """The plugin of the provider, as `author/plugin`."""
    model_provider: str = ""
    """The provider, as `author/plugin/provider`."""
    model: str = ""
    """The name of the model."""
    model_settings: dict[str, Any] = {}
    """temperature, top_p, max_tokens, stop, response_format and others; null if not
    set."""


class SoulTool(msgspec.Struct, kw_only=True):
    """A tool of an agent; without `tool_name`, all tools of its provider."""

    enabled: bool = True
    """Whether the agent has the tool."""
    provider_type: str = "plugin"
    """plugin, builtin, api, workflow or mcp."""
    provider_id: str = ""
    """The provider, as other parts of app files name it."""
    provider_name: str = ""
    """The provider in older packages."""
    plugin_id: str = ""
    """The plugin of the provider; with `provider` in place of `provider_id`."""
    provider: str = ""
    """The provider within the plugin."""
    tool_name: str = ""
    """The tool; empty for all tools of the provider."""
    description: str = ""
    """Replaces the tool's own description."""
    runtime_parameters: dict[str, Any] = {}
    """The parameters that the model does not choose."""
    tool_parameters: dict[str, Any] = {}
    """The name of `runtime_parameters` in older packages."""

    @property
    def provider_path(self) -> str:
        """The provider as other parts of app files name it."""
        if self.provider_id:
            return self.provider_id
        if self.plugin_id and self.provider:
            return f"{self.plugin_id}/{self.provider}"
        return self.provider_name or self.provider or self.plugin_id


class CliTool(msgspec.Struct, kw_only=True):
    """A program that Dify installs in an agent's sandbox."""

    id: str = ""
    """The id that mentions use."""
    name: str = ""
    """The program's name."""
    tool_name: str = ""
    """Another name of the program."""
    label: str = ""
    """The name that is shown."""
    enabled: bool = True
    """Whether the agent has the program."""


class SoulTools(msgspec.Struct, kw_only=True):
    """The tools of an agent."""

    dify_tools: list[SoulTool] = []
    """Tools of plugins, of the server, of APIs, apps and MCP servers."""
    cli_tools: list[CliTool] = []
    """Programs, which are not available here."""


class KnowledgeDataset(msgspec.Struct, kw_only=True):
    """A dataset of a knowledge set."""

    id: str = ""
    """The id in the workspace that exported the file."""
    name: str = ""
    """The dataset's name, by which it may be found here."""


class KnowledgeQuery(msgspec.Struct, kw_only=True):
    """Who writes the query: the model (`generated_query`), or the author (`value`)."""

    mode: str = "generated_query"
    """generated_query or user_query."""
    value: str = ""
    """The query of the mode `user_query`, a template."""


class KnowledgeFilter(msgspec.Struct, kw_only=True, rename={"model": "model_config"}):
    """How documents are filtered by their metadata."""

    mode: str = "disabled"
    """disabled, automatic or manual."""
    model: dict[str, Any] | None = None
    """The model that writes the filter in the mode `automatic`."""
    conditions: dict[str, Any] | None = None
    """The filter of the mode `manual`: `logical_operator` and `conditions`."""


class KnowledgeSet(msgspec.Struct, kw_only=True):
    """Datasets that an agent searches together."""

    id: str = ""
    """The id that mentions use."""
    name: str = ""
    """The name, from which the tool's name is made."""
    description: str = ""
    """Tells the model when to search here."""
    datasets: list[KnowledgeDataset] = []
    """The datasets that are searched."""
    query: KnowledgeQuery = msgspec.field(default_factory=KnowledgeQuery)
    """Where the query comes from."""
    retrieval: dict[str, Any] = {}
    """mode, top_k, score_threshold, reranking and weights."""
    metadata_filtering: KnowledgeFilter = msgspec.field(default_factory=KnowledgeFilter)
    """Which documents are searched."""

    @property
    def dataset_names(self) -> list[str]:
        """The ids and the names of the datasets. The ids are those of the workspace
        that exported the file; here a dataset may have the same name."""
        names = [name for item in self.datasets for name in (item.id, item.name)]
        return [name for name in names if name]


class SoulKnowledge(msgspec.Struct, kw_only=True):
    """What an agent can look up."""

    sets: list[KnowledgeSet] = []
    """The sets; each is a tool, or a part of the prompt."""


class HumanContact(msgspec.Struct, kw_only=True):
    """A person whom an agent can ask. Exported files have no ids."""

    id: str = ""
    """The id that mentions use."""
    contact_id: str = ""
    """Another name of the id."""
    human_id: str = ""
    """Another name of the id."""
    name: str = ""
    """The person's name."""
    email: str = ""
    """The person's address."""
    channel: str = ""
    """email, slack, web_app or chat."""
    method: str = ""
    """Another name of the channel."""
    contact_method: str = ""
    """Another name of the channel."""

    @property
    def title(self) -> str:
        """The contact as a prompt names it."""
        channel = self.channel or self.method or self.contact_method
        person = self.name or self.email
        return f"{person} ({channel})" if channel and person else person

    @property
    def mail_address(self) -> str:
        """The address to which questions are sent; empty if it is not known, or if the
        person is reached on another way."""
        channel = self.channel or self.method or self.contact_method or "email"
        return self.email if channel == "email" else ""


class SoulHuman(msgspec.Struct, kw_only=True):
    """The people whom an agent can ask."""

    contacts: list[HumanContact] = []
    """The contacts; without any the agent cannot ask."""


class NamedSetting(msgspec.Struct, kw_only=True):
    """An environment variable of an agent's sandbox."""

    name: str = ""
    """The variable's name."""
    key: str = ""
    """Another name of the name."""
    env_name: str = ""
    """Another name of the name."""
    variable: str = ""
    """Another name of the name."""

    @property
    def title(self) -> str:
        """The variable's name."""
        return self.name or self.key or self.env_name or self.variable


class SoulEnvironment(msgspec.Struct, kw_only=True):
    """The environment of an agent's sandbox."""

    variables: list[NamedSetting] = []
    """Variables with values."""
    secret_refs: list[NamedSetting] = []
    """Variables whose values are not in the file."""


class SoulFiles(msgspec.Struct, kw_only=True):
    """Skills and files of an agent, in the older form."""

    skills: list[NamedAsset] = []
    """The skills."""
    files: list[NamedAsset] = []
    """The files."""


class AppVariable(msgspec.Struct, kw_only=True):
    """A field of the input form of an agent's app."""

    name: str
    """The name, used as `{{name}}` in the prompt."""
    type: str = "string"
    """string, number, boolean, paragraph, select or json."""
    required: bool = False
    """Whether a conversation needs a value."""
    default: Any = None
    """The value of a field that was left empty."""
    hide: bool = False
    """Whether the field is not shown."""
    options: list[Any] = []
    """The choices of a selection."""


class AgentSoul(msgspec.Struct, kw_only=True):
    """The configuration of an agent."""

    schema_version: int = 1
    """The version of this structure: 1."""
    prompt: SoulPrompt = msgspec.field(default_factory=SoulPrompt)
    tools: SoulTools = msgspec.field(default_factory=SoulTools)
    knowledge: SoulKnowledge = msgspec.field(default_factory=SoulKnowledge)
    human: SoulHuman = msgspec.field(default_factory=SoulHuman)
    env: SoulEnvironment = msgspec.field(default_factory=SoulEnvironment)
    config_skills: list[NamedAsset] = []
    """Skills; their content is not in the file."""
    config_files: list[NamedAsset] = []
    """Files; their content is not in the file."""
    config_note: str = ""
    """A note of the author, which is part of the instruction here."""
    files: SoulFiles = msgspec.field(default_factory=SoulFiles)
    skills_files: SoulFiles = msgspec.field(default_factory=SoulFiles)
    sandbox: dict[str, Any] = {}
    """Settings of the sandbox, which have no effect here."""
    memory: dict[str, Any] = {}
    """Settings of a memory beyond the conversation, which have no effect here."""
    model: SoulModel | None = None
    """The model; None for the server's default."""
    app_features: dict[str, Any] = {}
    """Features of the app: opening statement, file upload and others."""
    app_variables: list[AppVariable] = []
    """The input form of the app."""
    misc_legacy: dict[str, Any] = {}
    """Features of older apps, which have no effect."""


class AgentPackage(msgspec.Struct, kw_only=True):
    """An agent in an app file."""

    schema_version: int = 1
    """The version of this structure: 1."""
    metadata: PackageMetadata = msgspec.field(default_factory=PackageMetadata)
    soul: AgentSoul
    omitted_assets: list[NamedAsset] = []
    """Skills and files that the export has left out."""
    workspace_skills: list[NamedAsset] = []
    """Skills of the workspace; their content is not in the file."""


# ---------------------------------------------------------------------------- the task


class AgentBinding(msgspec.Struct, kw_only=True):
    """Which agent a node runs: a package of the file, or an agent's app by its id."""

    binding_type: str = "inline_agent"
    """inline_agent or roster_agent."""
    package_ref: str = ""
    """The name of a package in the file."""
    agent_id: str = ""
    """The id of an agent's app."""
    current_snapshot_id: str = ""
    """The version of that app, which has no meaning here."""


class OutputReference(msgspec.Struct, kw_only=True):
    """An output of an earlier node that a task needs."""

    selector: list[str] = []
    """The selector."""
    variable_selector: list[str] = []
    """Another name of the selector."""
    value_selector: list[str] = []
    """Another name of the selector."""
    node_id: str = ""
    """The node, if there is no selector."""
    output: str = ""
    """The output of that node."""
    name: str = ""
    """Another name of the output, or the name that is shown."""
    variable: str = ""
    """Another name of the output."""
    key: str = ""
    """Another name of the output."""

    @property
    def path(self) -> tuple[str, ...]:
        """The selector; empty if the reference is incomplete."""
        for selector in (self.selector, self.variable_selector, self.value_selector):
            if len(selector) > 1:
                return tuple(selector)
        output = self.output or self.name or self.variable or self.key
        return (self.node_id, output) if self.node_id and output else ()


class JobMetadata(msgspec.Struct, kw_only=True):
    """Files that a task refers to. Their content is not in the file."""

    file_refs: list[NamedAsset] = []
    """The files."""


class AgentJob(msgspec.Struct, kw_only=True):
    """The task that a node gives to its agent."""

    schema_version: int = 1
    """The version of this structure: 1."""
    mode: str = "tell_agent_what_to_do"
    """tell_agent_what_to_do or let_agent_figure_it_out; the latter has no task."""
    workflow_prompt: str = ""
    """The task, with selectors and mentions."""
    previous_node_output_refs: list[OutputReference] = []
    """Outputs that the agent gets beside its task."""
    declared_outputs: list[DeclaredOutput] = []
    """The outputs; without any they are text, files and json."""
    human_contacts: list[HumanContact] = []
    """People whom the agent can ask about this task."""
    metadata: JobMetadata = msgspec.field(default_factory=JobMetadata)


class AgentJobData(NodeData, kw_only=True):
    """Data of an agent node of version 2 in a DSL file."""

    agent_node_kind: str = ""
    """dify_agent."""
    agent_binding: AgentBinding | None = None
    """The agent."""
    agent_job: AgentJob = msgspec.field(default_factory=AgentJob)
    """The task."""
    memory: MemoryConfig | None = None
    """How much of the conversation an app's agent gets; None for a task."""
    output_schema: dict[str, Any] | None = None
    """Always None: the schema follows from the declared outputs."""
    query: str = ""
    """Template of the message to the agent of an app of mode `agent`."""
    package: AgentPackage | None = None
    """The agent, once the file's parser has resolved `agent_binding`."""


def is_agent_job(data: Mapping[str, Any]) -> bool:
    """Return whether the data of an agent node is of version 2.

    Nodes of version 1 name a strategy.
    """
    # Current editors say it in this field.
    if data.get("agent_node_kind") == "dify_agent":
        return True
    # Some editors write version 2 into nodes with a strategy as well.
    if data.get("agent_strategy_name"):
        return False
    return (
        str(data.get("version") or "") == "2"
        or "agent_binding" in data
        or "agent_job" in data
    )


# --------------------------------------------------------------- an agent's app as graph


def nodes_of_agent_app(
    package: AgentPackage,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (nodes, edges) of an app of mode `agent`, in the format of a workflow."""
    nodes = [
        _node(
            START,
            {
                "type": "start",
                "title": "Start",
                "variables": [
                    _form_field(variable) for variable in package.soul.app_variables
                ],
            },
        ),
        _node(
            AGENT,
            {
                "type": "agent",
                "version": "2",
                "agent_node_kind": "dify_agent",
                "title": package.metadata.name or "Agent",
                "memory": {"window": {"enabled": False}},
                "query": "{{#sys.query#}}",
            },
        ),
        _node(
            ANSWER, {"type": "answer", "title": "Answer", "answer": "{{#agent.text#}}"}
        ),
    ]
    edges = [
        {"source": START, "target": AGENT},
        {"source": AGENT, "target": ANSWER},
    ]
    return nodes, edges


def _node(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return a node in the DSL format."""
    return {"id": name, "type": "custom", "data": data}


def _form_field(variable: AppVariable) -> dict[str, Any]:
    """Return a variable of an agent's app as a field of a start node."""
    return {
        "variable": variable.name,
        # Packages have no labels, so the form shows the names.
        "label": variable.name,
        # A type that a later editor has added can still be entered as text.
        "type": _FORM_TYPES.get(variable.type.strip().lower(), "text-input"),
        "required": variable.required,
        "default": variable.default,
        "hide": variable.hide,
        "options": variable.options,
    }


def features_of_agent_app(package: AgentPackage) -> dict[str, Any]:
    """Return the features of an agent's app, without those that are not set."""
    features = {
        name: value
        for name, value in package.soul.app_features.items()
        if value is not None
    }
    # The app's own features come last, so that they replace the default.
    return {"file_upload": _FILE_UPLOAD, **features}


# ----------------------------------------------------------------- settings of the agent


def model_of(soul: AgentSoul) -> dict[str, Any]:
    """Return the model in the form of the parameters of an agent node of version 1."""
    # Without a name the server takes its default model.
    model = soul.model or SoulModel()
    settings = {
        name: value
        for name, value in model.model_settings.items()
        # Null stands for what the author left alone; a vendor could refuse it.
        if value is not None and name != "response_format"
    }
    # Packages have an object here, nodes of version 1 a text.
    response_format = model.model_settings.get("response_format")
    if is_mapping(response_format):
        response_format = response_format.get("type")
    if response_format:
        settings["response_format"] = str(response_format)
    return {
        "provider": model.model_provider or model.plugin_id,
        "model": model.model,
        "mode": "chat",
        "completion_params": settings,
    }


def tool_definitions(soul: AgentSoul) -> list[dict[str, Any]]:
    """Return the enabled tools with a name, in the form of an app's tool list."""
    return [
        {
            "provider_type": tool.provider_type,
            "provider_id": tool.provider_path,
            "tool_name": tool.tool_name,
            "tool_parameters": tool.runtime_parameters or tool.tool_parameters,
            "extra": {"description": tool.description},
        }
        for tool in soul.tools.dify_tools
        if tool.enabled and tool.tool_name
    ]


def provider_tools(soul: AgentSoul) -> list[SoulTool]:
    """Return the enabled entries that stand for all tools of a provider."""
    return [
        tool for tool in soul.tools.dify_tools if tool.enabled and not tool.tool_name
    ]


# -------------------------------------------------------------------------- the warnings


def package_warnings(
    package: AgentPackage, raw: Mapping[str, Any]
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield (path within the package, message) of everything that has no effect here.

    `raw` is the package as it is in the file.
    """
    yield from _asset_warnings(package)
    yield from _setting_warnings(package.soul)
    # The parser skips unknown fields, so only the file itself shows them.
    yield from _unknown_fields(raw, AgentPackage, ())
    soul = raw.get("soul")
    yield from _unknown_fields(soul, AgentSoul, ("soul",))


def _asset_warnings(package: AgentPackage) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the warnings about skills and files, whose content is not in the file."""
    soul = package.soul
    skills = [
        *(asset for asset in package.omitted_assets if asset.kind == "skill"),
        *package.workspace_skills,
        *soul.config_skills,
        *soul.files.skills,
        *soul.skills_files.skills,
    ]
    files = [
        *(asset for asset in package.omitted_assets if asset.kind != "skill"),
        *soul.config_files,
        *soul.files.files,
        *soul.skills_files.files,
    ]
    for kind, assets in (("skill", skills), ("file", files)):
        # A package names an omitted asset in its list and in its soul.
        for name in dict.fromkeys(asset.name for asset in assets if asset.name):
            yield (
                ("omitted_assets",),
                f"The {kind} {name!r} of the agent is not in the file; the agent works"
                " without it",
            )


def _setting_warnings(soul: AgentSoul) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the warnings about settings of the soul that have no effect here."""
    for index, tool in enumerate(soul.tools.cli_tools):
        if tool.enabled:
            name = tool.name or tool.tool_name or tool.label or tool.id
            yield (
                ("soul", "tools", "cli_tools", index),
                f"The program {name!r} is not available: agents have no shell here",
            )
    # Only programs in a shell could read them.
    variables = [*soul.env.variables, *soul.env.secret_refs]
    if variables:
        names = ", ".join(variable.title for variable in variables)
        yield (
            ("soul", "env"),
            f"The environment variables {names} have no effect: agents have no shell"
            " here",
        )
    for name in ("sandbox", "memory"):
        if _is_configured(getattr(soul, name)):
            yield (("soul", name), f"The agent's {name} settings have no effect here")
    yield from _model_warnings(soul)
    yield from _contact_warnings(soul)


def _contact_warnings(soul: AgentSoul) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield a warning if there are people whom the agent can ask."""
    names = [
        contact.title or "a contact"
        for contact in soul.human.contacts
        if not contact.mail_address
    ]
    if names:
        yield _CONTACTS, _no_message_to(names)


def mail_warnings(package: AgentPackage) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield (path within the package, message) of what has no effect while the server
    cannot send mail."""
    contacts = package.soul.human.contacts
    names = [contact.title for contact in contacts if contact.mail_address]
    if names:
        yield _CONTACTS, _no_message_to(names)


_CONTACTS = ("soul", "human", "contacts")


def _no_message_to(names: Sequence[str]) -> str:
    """Return the warning about people who get no message."""
    return (
        f"No message is sent to {', '.join(names)}; the agent's questions are shown"
        " where the app is used"
    )


def _model_warnings(soul: AgentSoul) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield a warning for a missing model, and for an answer format that agents here do
    not ask models for."""
    if soul.model is None or not soul.model.model:
        yield ("soul", "model"), "The agent has no model; the default model is used"
    settings = soul.model.model_settings if soul.model is not None else {}
    name = _format_name(settings.get("response_format"))
    if name not in ("", None, "text", "json", "json_object"):
        path = ("soul", "model", "model_settings", "response_format")
        yield path, f"The model's answer format {name!r} has no effect here"


def _format_name(response_format: Any) -> Any:
    """Return the name of an answer format; empty if none is set."""
    # Other values than objects come from files that were written by hand.
    return response_format.get("type") if is_mapping(response_format) else ""


def _is_configured(settings: Mapping[str, Any]) -> bool:
    """Return whether settings hold anything but empty values."""
    return any(
        _is_configured(value) if is_mapping(value) else value not in (None, "", [])
        for value in settings.values()
    )


def _unknown_fields(
    raw: Any, struct: type[msgspec.Struct], path: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield a warning for each field of an object that is not known here."""
    # The fields of nested objects are not compared: many may have any.
    known = {field.encode_name for field in msgspec.structs.fields(struct)}
    for name in raw if is_mapping(raw) else ():
        if name not in known:
            yield (
                (*path, name),
                f"The field {'.'.join((*path, str(name)))!r} is unknown here and has no"
                " effect",
            )


def job_warnings(
    job: AgentJob, raw: Mapping[str, Any]
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield (path within the node's data, message) of everything in a task that has no
    effect here. `raw` is the node's data as it is in the file."""
    # The parsed task lacks what it does not know.
    raw_job = raw.get("agent_job")
    yield from (
        (("agent_job", *path), message)
        for path, message in _unknown_fields(raw_job, AgentJob, ())
    )
    for index, output in enumerate(job.declared_outputs):
        if output.check is not None and output.check.enabled:
            yield (
                ("agent_job", "declared_outputs", index),
                f"The output {output.name!r} is not compared with its sample file",
            )
    for asset in job.metadata.file_refs:
        yield (
            ("agent_job", "metadata"),
            f"The file {asset.name!r} of the task is not in the file; the agent works"
            " without it",
        )


# ----------------------------------------------------------------------- the references


def package_ref_of(document: Mapping[str, Any]) -> str:
    """Return the name of the package that an app of mode `agent` runs; empty if the
    file names none and does not have exactly one."""
    agent = document.get("agent")
    named = str((agent if is_mapping(agent) else EMPTY_OBJECT).get("package_ref") or "")
    packages = document.get("agent_packages")
    # With one package there is no doubt which one is meant.
    if named or not is_mapping(packages) or len(packages) != 1:
        return named
    return str(next(iter(packages)))


def describe_missing_agent(binding: AgentBinding | None) -> str:
    """Return why a node has no agent."""
    if binding is None or not (binding.package_ref or binding.agent_id):
        return "No agent is bound to the node ('agent_binding' is missing)"
    if binding.package_ref:
        return f"The file has no agent package {binding.package_ref!r}"
    return (
        f"The agent {binding.agent_id!r} is not in the file, so it must be the id or the"
        " name of an agent app here; the app's mapping can name another under 'agents'"
    )


def requirements_of_package(package: AgentPackage) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of everything that must exist for an agent to work fully."""
    soul = package.soul
    if soul.model is not None and soul.model.model:
        yield "model", f"{soul.model.model_provider}/{soul.model.model}".lstrip("/")
    # Disabled tools need not exist.
    for tool in soul.tools.dify_tools:
        if tool.enabled:
            yield "tool", f"{tool.provider_path}/{tool.tool_name or '*'}"
    for knowledge_set in soul.knowledge.sets:
        for dataset in knowledge_set.datasets:
            # Whoever must create the dataset needs its name: its id means nothing here.
            yield "dataset", dataset.name or dataset.id


def contacts_of(soul: AgentSoul, job: AgentJob | None = None) -> Sequence[HumanContact]:
    """Return the people whom an agent can ask: its own contacts and the task's."""
    return [*soul.human.contacts, *(job.human_contacts if job is not None else ())]
