"""Node types that only work with values and branches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.show.app_files.conditions import NodeFailure, holds, list_result
from tools.show.app_files.contract import Reading, Step, rendered_jinja
from tools.show.app_files.reading import ReadNode
from tools.show.app_files.values import (
    MISSING,
    Pool,
    files_of,
    look_up,
    markdown_of,
    references_in,
    render,
    value_at,
)
from tools.show.app_files.world import comparable_body


def start(node: ReadNode, run: Reading) -> Step:
    """The fields of the form; one that is left out has its default value."""
    given = run.pool.get(node.id, {})
    outputs: dict[str, Any] = {}
    for variable in node.list_of("variables"):
        value = given.get(str(variable["variable"]), variable.get("default"))
        is_number = variable.get("type") == "number" and isinstance(value, str)
        outputs[str(variable["variable"])] = (
            comparable_body(value) if is_number else value
        )
    return Step({**given, **outputs})


def root(node: ReadNode, run: Reading) -> Step:
    """A trigger returns what the run was started with."""
    return Step(dict(run.pool.get(node.id, {})))


def webhook(node: ReadNode, run: Reading) -> Step:
    """The declared values of a request; a name in a selector has no hyphens."""
    values = run.pool.get(node.id, {})
    return Step({name.replace("-", "_"): values[name] for name in values})


def end(node: ReadNode, run: Reading) -> Step:
    """The outputs of the app by their names."""
    return Step(
        {
            str(output["variable"]): value_at(run.pool, output.get("value_selector"))
            for output in node.list_of("outputs")
        }
    )


def answer(node: ReadNode, run: Reading) -> Step:
    """The text of the answer, and the files that it names."""
    template = str(node.data.get("answer") or "")
    values = [value_at(run.pool, selector) for selector in references_in(template)]
    files = [file for value in values for file in files_of(value)]
    return Step({"answer": render(template, run.pool, markdown_of), "files": files})


def if_else(node: ReadNode, run: Reading) -> Step:
    """The first case that holds is the branch."""
    cases = node.list_of("cases") or [
        {
            "case_id": "true",
            "logical_operator": node.data.get("logical_operator") or "and",
            "conditions": node.data.get("conditions") or (),
        }
    ]
    for case in cases:
        operator = str(case.get("logical_operator") or "and")
        if holds(case.get("conditions") or (), operator, run.pool):
            case_id = case.get("case_id")
            handle = "true" if case_id in (True, None) else str(case_id)
            return Step({"result": True, "selected_case_id": handle}, handle)
    return Step({"result": False, "selected_case_id": "false"}, "false")


def template_transform(node: ReadNode, run: Reading) -> Step:
    """A rendered Jinja template."""
    source = str(node.data.get("template") or "")
    return Step({"output": rendered_jinja(source, node.list_of("variables"), run.pool)})


def variable_aggregator(node: ReadNode, run: Reading) -> Step:
    """The first variable that exists, for each group if there are groups."""
    settings = node.mapping_of("advanced_settings")
    if not settings.get("group_enabled"):
        return Step(_first_existing(node.list_of("variables"), run.pool))
    outputs = {
        str(group["group_name"]): value
        for group in settings.get("groups") or ()
        if (value := _first_existing(group.get("variables") or (), run.pool))
    }
    return Step(outputs)


def _first_existing(selectors: Sequence[Any], pool: Pool) -> dict[str, Any]:
    """Return the first existing value as `output`; nothing if there is none."""
    for selector in selectors:
        if (value := look_up(pool, selector)) is not MISSING:
            return {"output": value}
    return {}


def list_operator(node: ReadNode, run: Reading) -> Step:
    """A list that is filtered, sorted and cut."""
    result = list_result(node.data, run.pool)
    first, last = (result[0], result[-1]) if result else (None, None)
    return Step({"result": result, "first_record": first, "last_record": last})


def document_extractor(node: ReadNode, run: Reading) -> Step:
    """The texts of files; all files of a run are plain texts with their name."""
    value = look_up(run.pool, node.data.get("variable_selector"))
    if value is MISSING:
        raise NodeFailure("File variable not found", "DocumentExtractorError")
    if not value:
        return Step({"text": []})
    texts = [content_of(file) for file in files_of(value)]
    return Step({"text": texts if isinstance(value, list) else texts[0]})


def content_of(file: Mapping[str, Any]) -> str:
    """Return the text in a file of a run."""
    return f"Text in {file['filename']}"


def assigner(node: ReadNode, run: Reading) -> Step:
    """Writes variables of the conversation or of a loop."""
    items = node.list_of("items") or [
        {
            "variable_selector": node.data.get("assigned_variable_selector"),
            "operation": node.data.get("write_mode") or "over-write",
            "input_type": "variable",
            "value": node.data.get("input_variable_selector"),
        }
    ]
    for item in items:
        _assign(item, run.pool)
    return Step()


def _assign(item: Mapping[str, Any], pool: Pool) -> None:
    """Write one variable. Raises NodeFailure if it does not exist."""
    owner, name = (str(step) for step in item["variable_selector"][:2])
    if name not in pool.get(owner, {}):
        raise NodeFailure(f"Variable {owner}.{name} not found", "VariableNotFoundError")
    current = pool[owner][name]
    operation = str(item["operation"])
    value = item.get("value")
    if operation in _WITHOUT_VALUE:
        value = None
    elif item.get("input_type") != "constant" and operation != "set":
        value = value_at(pool, value)
        # A source without a value leaves the variable as it is.
        if value is None:
            return
    # A constant for an object or a list is written as text.
    if isinstance(value, str) and not isinstance(current, str | type(None)):
        value = comparable_body(value)
    pool[owner][name] = _OPERATIONS[operation](current, value)


def _cleared(current: Any, _: Any) -> Any:
    """Return the zero value of a variable's type."""
    return type(current)() if current is not None else ""


_WITHOUT_VALUE = ("clear", "remove-first", "remove-last")
_OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "over-write": lambda _, value: value,
    "set": lambda _, value: value,
    "clear": _cleared,
    "append": lambda current, value: [*(current or ()), value],
    "extend": lambda current, value: [*(current or ()), *value],
    "+=": lambda current, value: current + value,
    "-=": lambda current, value: current - value,
    "*=": lambda current, value: current * value,
    "/=": lambda current, value: current / value,
    "remove-first": lambda current, _: current[1:],
    "remove-last": lambda current, _: current[:-1],
}


def container(node: ReadNode, run: Reading) -> Step:
    """An iteration or a loop."""
    return Step(run.run_rounds(node))


def nothing(node: ReadNode, run: Reading) -> Step:
    """A node that only marks a position."""
    return Step()
