"""human-input: the run waits until somebody fills in a form, or until it is too late."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.events import NodeRunHumanInputFormFilled, NodeRunHumanInputFormTimeout
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeKind, NodePaused, NodeResult
from modelyard.workflow.template import render_markdown, selectors_in
from modelyard.workflow.variables import to_object, to_text

TIMED_OUT = "__timeout"
_OUTPUT = re.compile(r"\{\{#\$output\.([a-zA-Z_][a-zA-Z0-9_]{0,29})#\}\}")


class Default(msgspec.Struct, kw_only=True):
    type: str = "constant"
    selector: list[str] = []
    value: Any = None


class FormInput(msgspec.Struct, kw_only=True):
    type: str = "paragraph"
    output_variable_name: str = ""
    default: Default | None = None
    option_source: Default | None = None
    allowed_file_types: list[str] = []
    allowed_file_extensions: list[str] = []
    allowed_file_upload_methods: list[str] = []
    number_limits: int | None = None


class UserAction(msgspec.Struct, kw_only=True):
    id: str
    title: str = ""
    button_style: str = "default"


class HumanInputData(NodeData, kw_only=True):
    form_content: str = ""
    inputs: list[FormInput] = []
    user_actions: list[UserAction] = []
    timeout: float = 36
    timeout_unit: str = "hour"
    delivery_methods: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        return self.timeout * {"hour": 3600.0, "day": 86400.0, "minute": 60.0}.get(self.timeout_unit, 3600.0)


class HumanInputNode(Node):
    type = "human-input"
    kind = NodeKind.BRANCH
    Data = HumanInputData

    async def run(self, context: NodeContext) -> NodeResult:
        if (forms := context.services.forms) is None:
            raise NodeError("nobody can fill in a form here: the run is not kept", kind="HumanInputUnavailable")
        about = self.about(context.execution_id)
        answer = await forms.answer(context.key)
        if answer is None:
            form = self.form(context)
            told = await forms.ask(context.key, form, context.run.now() + self.data.seconds)
            raise NodePaused(
                {"TYPE": "human_input_required", "node_id": self.id, "node_title": self.title, **form, **told}
            )
        if "expired" in answer:
            context.emit(NodeRunHumanInputFormTimeout(
                **about, at=context.run.now(), expiration_time=float(answer["expired"])
            ))  # fmt: skip
            return NodeResult(handle=TIMED_OUT, outputs={"__action_id": "", "__rendered_content": ""})
        return self._filled(answer, context, about)

    def form(self, context: NodeContext) -> dict[str, Any]:
        """What is asked, as it is shown."""
        data: HumanInputData = self.data
        defaults = {one.output_variable_name: _given(one.default, context) for one in data.inputs if one.default}
        inputs: list[dict[str, Any]] = []
        for one in data.inputs:
            shown = msgspec.to_builtins(one)
            if one.option_source is not None:
                shown["options"] = _given(one.option_source, context)
            inputs.append(shown)
        return {
            "form_content": render_markdown(data.form_content, context.pool),
            "inputs": inputs,
            "actions": [msgspec.to_builtins(one) for one in data.user_actions],
            "resolved_default_values": defaults,
        }

    def _filled(self, answer: Mapping[str, Any], context: NodeContext, about: Mapping[str, Any]) -> NodeResult:
        fields: dict[str, Any] = dict(answer.get("inputs") or {})
        chosen = str(answer.get("action") or "")
        title = next((one.title for one in self.data.user_actions if one.id == chosen), "")
        content = _OUTPUT.sub(lambda match: to_text(fields.get(match[1])), self.data.form_content)
        content = render_markdown(content, context.pool)
        context.emit(NodeRunHumanInputFormFilled(
            **about, at=context.run.now(), action_id=chosen, action_text=title, rendered_content=content
        ))  # fmt: skip
        outputs = {one.output_variable_name: fields.get(one.output_variable_name) for one in self.data.inputs}
        outputs |= {"__action_id": chosen, "__action_value": title, "__rendered_content": content}
        return NodeResult(handle=chosen, inputs=fields, outputs=outputs)

    def references(self) -> Sequence[tuple[str, ...]]:
        return [one for one in selectors_in(self.data.form_content) if not one[0].startswith("$")]


def _given(source: Default | None, context: NodeContext) -> Any:
    if source is None:
        return None
    return to_object(context.value(source.selector)) if source.type == "variable" else source.value


NODES = {"human-input": HumanInputNode}
