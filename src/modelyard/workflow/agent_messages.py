"""What an agent node of version 2 tells its agent: the instruction, and the message with
the task and what earlier steps returned. Pure functions.

The instruction is the agent's own prompt. The message of the task

    Compare {{#start.topic#}} with [§node_output:search.result:the results§].

in a chat, with one more reference, is

    Compare tea with search.result.

    The user's message: Which one is better?

    What earlier steps returned:
    - search.result: …
    - read.text: …

Values that the task names as selectors stand in its text; those that it only mentions
follow it, and so do the references that the task lists. Files are sent with the message,
and their names stand in the text. A task without a text leaves it to the agent's prompt
what to do with all that.

A value that does not exist is an error if the text needs it, because the model would
have to guess it. Beside a text, the list of references may be older than the text, so
what is missing there is left out.

Source: langgenius/dify, api/core/workflow/nodes/agent_v2/runtime_request_builder.py
(which values belong to a task, and when they are missing).
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array
from modelyard.workflow.agent_packages import (
    START,
    AgentJob,
    AgentPackage,
    HumanContact,
    SoulTool,
)
from modelyard.workflow.prompt_mentions import Mention, expand_mentions, mentions_in
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.variables import (
    MISSING,
    NAMESPACES,
    File,
    VariablePool,
    to_text,
)

_NO_TASK = "Do what your instructions say."
_QUERY = ("sys", "query")


class MissingOutputError(Exception):
    """A task refers to an output that no earlier step has made. The text is its name."""


class TaskMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The message that starts an agent, and the files that go with it."""

    text: str
    files: list[File] = []
    is_general: bool = False
    """Whether the text only refers to the agent's instructions."""


# ---------------------------------------------------------------------- the instruction


def instruction_of(package: AgentPackage, pool: VariablePool) -> str:
    """Return an agent's prompt, with mentions as names and the values of its app's
    input form in place of `{{name}}`."""
    soul = package.soul
    # Mentions come first: the value of a variable might look like one.
    prompt = expand_mentions(soul.prompt.system_prompt, _names_in_soul(package))
    # Only declared variables are replaced: other braces belong to the prompt.
    for variable in soul.app_variables:
        value = pool.value((START, variable.name))
        # In a workflow the agent has no form, so its defaults count.
        value = variable.default if value is None else value
        if value is not None:
            prompt = prompt.replace("{{" + variable.name + "}}", to_text(value))
    note = soul.config_note.strip()
    return f"{prompt.strip()}\n\n{note}".strip() if note else prompt.strip()


def _names_in_soul(package: AgentPackage) -> Callable[[Mention], str]:
    """Return the function that names what an agent's prompt mentions."""
    soul = package.soul
    names: dict[tuple[str, str], str] = {}
    for program in soul.tools.cli_tools:
        names["cli_tool", program.id] = program.name
    # Mentions of older editors name a dataset, those of newer ones its set.
    for knowledge_set in soul.knowledge.sets:
        for dataset in knowledge_set.datasets:
            names["knowledge", dataset.id] = dataset.name
        names["knowledge", knowledge_set.id] = knowledge_set.name

    def name_of(mention: Mention) -> str:
        """Return the name of a tool, program, knowledge set or contact."""
        if mention.kind == "tool":
            return _name_among_tools(soul.tools.dify_tools, mention.id)
        if mention.kind == "human":
            return _contact_name(soul.human.contacts, mention.id)
        return names.get((mention.kind, mention.id), "")

    return name_of


def _name_among_tools(tools: Sequence[SoulTool], mentioned: str) -> str:
    """Return the name of a mentioned tool; empty if no tool fits."""
    names = [_tool_name(tool, mentioned) for tool in tools]
    return next((name for name in names if name), "")


def _tool_name(tool: SoulTool, mentioned: str) -> str:
    """Return the name of a mentioned tool; empty if it is another one."""
    prefixes = {tool.provider_path, tool.provider, tool.provider_id, tool.plugin_id}
    # Editors name the provider by any of its names, or leave it out.
    provider, _, name = mentioned.rpartition("/")
    if provider and provider not in prefixes:
        return ""
    if not tool.tool_name:
        # An entry for all tools of a provider.
        label = tool.provider or tool.provider_path
        return f"all tools of {label}" if name == "*" else name if provider else ""
    return tool.tool_name if name == tool.tool_name else ""


def _contact_name(contacts: Sequence[HumanContact], mentioned: str) -> str:
    """Return the name of a mentioned contact; empty if there is none with this id."""
    for contact in contacts:
        # Authors may use any of the three ids of a contact.
        if mentioned in (contact.id, contact.contact_id, contact.human_id):
            return contact.title
    return ""


# ------------------------------------------------------------------------- the message


def task_selectors(job: AgentJob) -> list[tuple[str, ...]]:
    """Return the selectors of the outputs that a task needs, each once."""
    # Mentions have the selector as their id.
    mentioned = [
        tuple(mention.id.split("."))
        for mention in mentions_in(job.workflow_prompt)
        if mention.kind == "node_output"
    ]
    selectors = [
        *selectors_in(job.workflow_prompt),
        # A mention without an output names a node, which has no value of its own.
        *(selector for selector in mentioned if len(selector) > 1),
        *(reference.path for reference in job.previous_node_output_refs),
    ]
    # Incomplete references have an empty selector.
    return list(dict.fromkeys(selector for selector in selectors if selector))


def task_message(job: AgentJob, pool: VariablePool) -> TaskMessage:
    """Return the message of a task: its text with the values that it names, then the
    values of other references, and the user's message in a chat.

    Raises MissingOutputError for a value that does not exist. A reference beside a text
    may be outdated, so it is then left out instead.
    """
    # Values in the text are not repeated below it.
    inline = set(selectors_in(job.workflow_prompt))
    # Mentions are expanded before the values are inserted, which might hold some.
    text = render(
        expand_mentions(job.workflow_prompt, _names_in_job(job)), pool, _print_value
    ).strip()
    lines: list[str] = []
    files: list[File] = []
    for selector in task_selectors(job):
        value = pool.get(selector)
        if value is MISSING:
            _check_missing(selector, is_needed=selector in inline or not text)
            continue
        # A file cannot stand in a text: it is sent beside it.
        files += _files_in(value)
        # The user's message gets a paragraph of its own below.
        if selector not in inline and selector != _QUERY:
            lines.append(f"- {'.'.join(selector)}: {_print_value(value)}")
    # In a chat the task is about what the user has written.
    query = to_text(pool.value(_QUERY))
    blocks = [text] if text else []
    if query and _QUERY not in inline:
        blocks.append(f"The user's message: {query}")
    if lines:
        blocks.append("\n".join(["What earlier steps returned:", *lines]))
    # This is noted before the stand-in text, which would count as a task.
    is_general = not blocks
    # Without a task the agent does what its own prompt says: it figures out the rest.
    if not text:
        blocks.append(_NO_TASK)
    return TaskMessage(text="\n\n".join(blocks), files=files, is_general=is_general)


def _check_missing(selector: Sequence[str], *, is_needed: bool) -> None:
    """Raise MissingOutputError if a task needs the output of a step that has not run."""
    # A missing system variable is shown as its name, as in all templates.
    if is_needed and selector[0] not in NAMESPACES:
        raise MissingOutputError(".".join(selector))


def _names_in_job(job: AgentJob) -> Callable[[Mention], str]:
    """Return the function that names what a task mentions."""

    def name_of(mention: Mention) -> str:
        """Return the name of an output or contact."""
        match mention.kind:
            case "output":
                return next(
                    (
                        f"{output.name} ({output.type})"
                        for output in job.declared_outputs
                        if output.name == mention.id
                    ),
                    "",
                )
            case "node_output":
                # The value follows the task under this name.
                return mention.id
            case "human":
                return _contact_name(job.human_contacts, mention.id)
            case _:
                return ""

    return name_of


def _print_value(value: Any) -> str:
    """Return a value as text for an agent: of files, the names."""
    files = _files_in(value)
    return ", ".join(file.filename or "a file" for file in files) or to_text(value)


def _files_in(value: Any) -> list[File]:
    """Return the file or files of a value."""
    # Other values of a mixed list are shown as text.
    values = value if is_array(value) else [value]
    return [element for element in values if isinstance(element, File)]


def previous_nodes(job: AgentJob) -> list[tuple[str, ...]]:
    """Return the selectors of a task that lead to other nodes, for validation."""
    return [
        selector
        for selector in task_selectors(job)
        if selector[0] not in NAMESPACES and not selector[0].startswith("$")
    ]
