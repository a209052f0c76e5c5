"""The session that a scripted model plays with a coding agent, in no vendor's format.

The model keeps no state: what comes next follows from the conversation alone, as with a
real model. It finds the agent's tools by their names and schemas as they arrive, since
a gateway may have adapted both.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.stand_ins.pictures import PICTURE

NOTES = 'Status: draft\nOwner: "Zoë" & Søn <team@example.org>\n'
"""What the file `notes.txt` contains before the session."""
EDITED = NOTES.replace("Status: draft", "Status: final – „fertig“ 😀")
GREETING = 'Grüße aus "Köln",\n\ttab \\ backslash, $HOME, `tick`, 你好 🌍\n'
FINAL_TEXT = "All steps are done: „fertig“ ✓ (7 + 35 = 42)"
FOUND = "4.2.1"
SUBTASK = "A part of the work: tell what the file made.txt contains."
_SUMMARY = re.compile("summary|state_snapshot|prompt for continuing")
"""What agents ask for if the context is full."""
_DONE = re.compile(r"Steps that are done: (\d+)")
REPORT = "The file made.txt contains: made by a command"
NO_SEARCH = "I cannot search here."
SEARCH_RESULT = f"The released version is {FOUND}."
FILES = {
    "notes.txt": EDITED,
    "greeting.txt": GREETING,
    "made.txt": "made by a command\n",
    "left.txt": "left\n",
    "right.txt": "right\n",
}
"""The files of the folder after the session."""


@dataclass(frozen=True)
class Tool:
    """A tool that the agent offers. `kind` is `function`, `custom` (its argument is a
    text) or `search` (the vendor runs it)."""

    name: str
    schema: dict[str, Any] = field(default_factory=dict[str, Any])
    kind: str = "function"


@dataclass(frozen=True)
class ToolCall:
    """A call of the model. The arguments of a custom tool are a text."""

    name: str
    arguments: Any
    id: str = ""
    kind: str = "function"


@dataclass
class ToolResult:
    """What an agent returned for a call."""

    text: str
    images: int = 0


@dataclass
class Conversation:
    """A request, in no vendor's format."""

    tools: list[Tool] = field(default_factory=list[Tool])
    turns: list[list[ToolCall]] = field(default_factory=list[list[ToolCall]])
    """The calls of each earlier answer that had some."""
    results: dict[str, ToolResult] = field(default_factory=dict[str, ToolResult])
    user_text: str = ""
    """All texts of the user."""
    last_text: str = ""
    """The texts of the user after the last result of a tool."""
    user_images: int = 0
    """Pictures in messages of the user, after the tool messages they belong to."""
    wants_thinking: bool = False
    body: str = ""
    """The request as it came."""

    def add_user_text(self, text: str) -> None:
        """Add a text of the user."""
        self.user_text += text
        self.last_text += text

    def add_result(self, call_id: str, result: ToolResult) -> None:
        """Add what an agent returned for a call."""
        self.results[call_id] = result
        self.last_text = ""


@dataclass
class Answer:
    """What the model answers."""

    text: str = ""
    thinking: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    search: str = ""
    """The query of a search that the vendor runs itself."""
    is_cut: bool = False
    """Whether the connection breaks in the middle of the stream."""
    context_tokens: int = 0
    """How many tokens the request is said to have; 0 for as many as it has."""


@dataclass(frozen=True)
class Step:
    """A step of the session: the calls it makes, None if the agent has no tool for it,
    and what each result must contain."""

    name: str
    calls: Callable[["Toolbox"], list[ToolCall] | None]
    expected: Sequence[str] = ()
    shows_picture: bool = False
    is_cut: bool = False
    """Whether an interrupted session breaks its stream the first time."""
    fills_context: bool = False
    """Whether a session that overflows does so with this step."""


READ = ("read", "readfile")
WRITE = ("write", "writefile")
EDIT = ("edit", "replace")
SHELL = ("bash", "runshellcommand", "execcommand", "shell", "shellcommand")
PATCH = ("applypatch",)
VIEW = ("viewimage",)
SEARCH = ("websearch", "googlewebsearch")
SUBAGENTS = {"agent": "general-purpose", "task": "general", "invokeagent": "generalist"}
"""Tools that start an agent of the agent's own, and one that each can start."""
ALIASES = {
    "path": ("file_path", "filePath", "absolute_path", "path"),
    "content": ("content",),
    "old": ("old_string", "oldString"),
    "new": ("new_string", "newString"),
    "command": ("command", "cmd"),
    "query": ("query",),
    "patch": ("input", "patchText", "patch"),
    "prompt": ("prompt",),
    "agent": ("subagent_type", "agent_name"),
    "result": ("result",),
}
"""What the parameters of agents' tools are called."""


class Toolbox:
    """The tools of an agent, by what they do. `folder` is where the agent works."""

    def __init__(self, tools: Sequence[Tool], folder: str) -> None:
        self.folder = folder
        self._tools = {re.sub(r"[^a-z]", "", tool.name.lower()): tool for tool in tools}

    def find(self, names: Sequence[str]) -> Tool | None:
        """Return the first tool with one of these names, in letters alone."""
        return next((self._tools[name] for name in names if name in self._tools), None)

    def call(self, names: Sequence[str], **values: str) -> ToolCall | None:
        """Return a call of the first tool with one of these names, or None."""
        tool = self.find(names)
        if tool is None or tool.kind == "search":
            return None
        if tool.kind == "custom":
            return ToolCall(tool.name, values["patch"], kind="custom")
        return ToolCall(tool.name, _arguments(tool.schema, values))

    def path(self, name: str) -> str:
        """Return the path of a file in the agent's folder."""
        return f"{self.folder}/{name}"


def _arguments(schema: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """Return arguments for a schema: the values by the names that it has for them, and
    something valid for what else it requires."""
    properties: dict[str, Any] = schema.get("properties") or {}
    arguments: dict[str, Any] = {}
    for kind, value in values.items():
        name = next((n for n in ALIASES[kind] if n in properties), ALIASES[kind][0])
        arguments[name] = _fitted(properties.get(name, {}), value)
    if "run_in_background" in properties:
        arguments["run_in_background"] = False
    for name in schema.get("required") or ():
        if name not in arguments:
            arguments[name] = _filler(properties.get(name, {}))
    return arguments


def _fitted(schema: dict[str, Any], value: str) -> Any:
    """Return a text as a schema has it: alone, as a command's last argument, or as the
    first property of an object."""
    match _type_of(schema):
        case "array":
            return ["bash", "-lc", value]
        case "object":
            return {next(iter(schema.get("properties") or ["result"])): value}
        case _:
            return value


def _type_of(schema: dict[str, Any]) -> str:
    """Return the type of a value, in lower case; that of the first if it has several."""
    kind = schema.get("type", "string")
    return (kind if isinstance(kind, str) else kind[0]).lower()


def _filler(schema: dict[str, Any]) -> Any:
    """Return a valid value for a required parameter that no step cares about."""
    if "enum" in schema:
        return schema["enum"][0]
    values = {"boolean": False, "integer": 1, "number": 1, "array": [], "object": {}}
    return values.get(_type_of(schema), "a step of the session")


def _only(call: ToolCall | None) -> list[ToolCall] | None:
    """Return a list of this call, or None."""
    return None if call is None else [call]


def _read(box: Toolbox) -> list[ToolCall] | None:
    call = box.call(READ, path=box.path("notes.txt"))
    return _only(call or box.call(SHELL, command="cat notes.txt"))


def _patch_lines(text: str, mark: str) -> str:
    """Return the lines of a text as lines of a patch."""
    return "".join(f"{mark}{line}\n" for line in text.splitlines())


def _write(box: Toolbox) -> list[ToolCall] | None:
    patch = (
        "*** Begin Patch\n*** Add File: greeting.txt\n"
        f"{_patch_lines(GREETING, '+')}*** End Patch\n"
    )
    call = box.call(WRITE, path=box.path("greeting.txt"), content=GREETING)
    call = call or box.call(PATCH, patch=patch)
    command = f"cat > greeting.txt <<'END'\n{GREETING}END"
    return _only(call or box.call(SHELL, command=command))


def _edit(box: Toolbox) -> list[ToolCall] | None:
    old, new = NOTES.splitlines()[0], EDITED.splitlines()[0]
    patch = (
        "*** Begin Patch\n*** Update File: notes.txt\n@@\n"
        f"-{old}\n+{new}\n*** End Patch\n"
    )
    call = box.call(EDIT, path=box.path("notes.txt"), old=old, new=new)
    call = call or box.call(PATCH, patch=patch)
    return _only(call or box.call(SHELL, command=f"sed -i 's/{old}/{new}/' notes.txt"))


def _run(box: Toolbox) -> list[ToolCall] | None:
    command = "printf 'made by a command\\n' > made.txt; wc -c < made.txt; sleep 0.3"
    return _only(box.call(SHELL, command=command))


def _parallel(box: Toolbox) -> list[ToolCall] | None:
    names = ("left", "right")
    calls = [box.call(SHELL, command=f"echo {n} > {n}.txt; cat {n}.txt") for n in names]
    return None if None in calls else [call for call in calls if call]


def _view(box: Toolbox) -> list[ToolCall] | None:
    path = box.path("picture.png")
    return _only(box.call(VIEW, path=path) or box.call(READ, path=path))


def _search(box: Toolbox) -> list[ToolCall] | None:
    return _only(box.call(SEARCH, query="released version"))


def _delegate(box: Toolbox) -> list[ToolCall] | None:
    for tool, agent in SUBAGENTS.items():
        if box.find((tool,)):
            return _only(box.call((tool,), prompt=SUBTASK, agent=agent))
    return None


STEPS = (
    Step("read", _read, ["Status: draft"]),
    Step("write", _write, is_cut=True),
    Step("edit", _edit),
    Step("shell", _run, ["18"], fills_context=True),
    Step("parallel", _parallel, ["left", "right"]),
    Step("picture", _view, shows_picture=True),
    Step("delegate", _delegate, [REPORT]),
    Step("search", _search, [FOUND]),
)


@dataclass
class Session:
    """The session of an agent that works in `folder`."""

    folder: str
    steps: Sequence[Step] = STEPS
    is_interrupted: bool = False
    """Whether the connection breaks once, in the middle of an answer."""
    context_tokens: int = 0
    """As how full the context is reported once, so that the agent has it summarized; 0
    if it never is."""
    unexpected_results: list[str] = field(default_factory=list[str])
    """Results that did not contain what they should."""
    is_complete: bool = False
    searches: int = 0
    """How many searches the vendor ran."""
    played: list[str] = field(default_factory=list[str])
    """The names of the steps that the agent had tools for."""
    reached: int = 0
    """How many steps were answered."""
    cuts: int = 0
    """How many streams were broken."""
    is_full: bool = False
    """Whether the context has been reported as full."""
    summaries: int = 0
    """How many summaries the agent asked for."""
    subtasks: int = 0
    """How many agents of its own the agent started."""

    def answer(self, conversation: Conversation) -> Answer:
        """Return the answer to a request."""
        box = Toolbox(conversation.tools, self.folder)
        if SUBTASK in conversation.user_text:
            return self._subtask_answer(conversation, box)
        if self._is_summary_request(conversation):
            return self._summary(conversation)
        if not conversation.turns and box.find((*READ, *SHELL)) is None:
            return self._side_answer(conversation)
        steps = list(self._possible_steps(box))
        self.played = [step.name for step, _ in steps]
        completed_count = _steps_done(conversation)
        self._check_results(conversation, steps[:completed_count])
        if completed_count >= len(steps):
            self.is_complete = True
            return Answer(text=FINAL_TEXT)
        return self._step_answer(conversation, completed_count, *steps[completed_count])

    def _step_answer(
        self,
        conversation: Conversation,
        completed_count: int,
        step: Step,
        calls: list[ToolCall],
    ) -> Answer:
        """Return the answer that makes the calls of a step."""
        self.reached = completed_count + 1
        numbered = [
            ToolCall(
                call.name, call.arguments, f"{completed_count}_{number}", call.kind
            )
            for number, call in enumerate(calls)
        ]
        thinking = (
            f"I think about „{step.name}“." if conversation.wants_thinking else ""
        )
        answer = Answer(f"Step: {step.name}.", thinking, numbered)
        if step.is_cut and self.is_interrupted and not self.cuts:
            self.cuts += 1
            answer.is_cut = True
        if step.fills_context and self.context_tokens and not self.summaries:
            self.is_full = True
            answer.context_tokens = self.context_tokens
        return answer

    def is_too_long(self, conversation: Conversation) -> bool:
        """Return whether a request still has the context that was reported as full."""
        return (
            self.is_full
            and not self.summaries
            and len(conversation.turns) > 1
            and not self._is_summary_request(conversation)
        )

    def _subtask_answer(self, conversation: Conversation, box: Toolbox) -> Answer:
        """Answer the agent that the agent started: it looks once, and reports."""
        end = box.call(("completetask",), result=REPORT)
        if len(conversation.turns) > 1 or (conversation.turns and end is None):
            return Answer(text=REPORT)
        look = box.call(READ, path=box.path("made.txt"))
        look = look or box.call(SHELL, command="cat made.txt")
        self.subtasks += not conversation.turns
        call = end if conversation.turns else look
        call_id = f"s_{len(conversation.turns)}"
        return Answer("I look.", calls=[replace(call, id=call_id)] if call else [])

    def _is_summary_request(self, conversation: Conversation) -> bool:
        """Return whether the agent asks for a summary of a context that is full."""
        text = conversation.last_text
        return self.is_full and not _DONE.search(text) and bool(_SUMMARY.search(text))

    def _summary(self, conversation: Conversation) -> Answer:
        """Return a summary from which the session can go on."""
        self.summaries += 1
        # Some agents send the history as a text.
        completed_count = (
            _steps_done(conversation) if conversation.turns else self.reached
        )
        text = f"Steps that are done: {completed_count}."
        # Agents look for their own marks in it.
        return Answer(
            f"<summary>{text}</summary><state_snapshot>{text}</state_snapshot>"
        )

    def _side_answer(self, conversation: Conversation) -> Answer:
        """Answer a call that the agent makes beside its session, such as a title, or
        the search behind its own search tool."""
        if any(tool.kind == "search" for tool in conversation.tools):
            self.searches += 1
            return Answer(text=SEARCH_RESULT, search="released version")
        if "released version" in conversation.user_text:
            return Answer(text=NO_SEARCH)
        return Answer(text='{"title": "A session", "isNewTopic": true}')

    def _possible_steps(self, box: Toolbox) -> Iterator[tuple[Step, list[ToolCall]]]:
        """Yield the steps for which the agent has tools, with their calls."""
        for step in self.steps:
            if (calls := step.calls(box)) is not None:
                yield step, calls

    def _check_results(
        self, conversation: Conversation, steps: Sequence[tuple[Step, list[ToolCall]]]
    ) -> None:
        """Note the results of the last turn that lack what they should contain."""
        # After a summary the results of the last step may be gone.
        if not steps or not conversation.turns:
            return
        step, calls = steps[-1]
        sent = conversation.turns[-1]
        if not all(map(_is_same_call, sent, calls)) or len(sent) != len(calls):
            self.unexpected_results.append(
                f"{step.name}: the calls came back as {sent}"
            )
        results = [conversation.results.get(call.id) for call in sent]
        for result, expected in zip(results, self._expected(step), strict=False):
            if result is None or expected not in result.text:
                self.unexpected_results.append(f"{step.name}: {result}")
        if step.shows_picture:
            self._check_picture(conversation, step, results)

    def _check_picture(
        self,
        conversation: Conversation,
        step: Step,
        results: Sequence[ToolResult | None],
    ) -> None:
        """Note if no picture reached the model, in a result or beside it."""
        images = sum(result.images for result in results if result)
        if not images + conversation.user_images:
            self.unexpected_results.append(f"{step.name}: no picture in {results}")

    def _expected(self, step: Step) -> Sequence[str]:
        """Return what the results of a step must contain. A search that the vendor does
        not have is answered without one."""
        is_answered_alone = step.expected == [FOUND] and not self.searches
        return [NO_SEARCH] if is_answered_alone else step.expected


def _steps_done(conversation: Conversation) -> int:
    """Return how many steps were made: those that a summary names, and those after."""
    summarized = _DONE.findall(conversation.body)
    return int(summarized[-1] if summarized else 0) + len(conversation.turns)


def _is_same_call(returned: ToolCall, sent: ToolCall) -> bool:
    """Return whether a call came back as it was sent; agents may add defaults."""
    if not isinstance(sent.arguments, dict) or not isinstance(returned.arguments, dict):
        return returned.arguments == sent.arguments
    return sent.arguments.items() <= returned.arguments.items()


def start_files(folder_files: Callable[[str, bytes], None]) -> None:
    """Write the files that a session begins with."""
    folder_files("notes.txt", NOTES.encode())
    folder_files("picture.png", PICTURE)
