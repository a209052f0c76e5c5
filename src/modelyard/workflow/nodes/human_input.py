"""Human input node: pauses the run until a person submits a form or its deadline
passes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.events import (
    NodeRunHumanInputFormFilled,
    NodeRunHumanInputFormTimeout,
)
from modelyard.workflow.form_mail import (
    FormMail,
    clean_subject,
    render_body,
    render_for_people,
)
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodePaused,
    NodeResult,
)
from modelyard.workflow.template import render_markdown, selectors_in
from modelyard.workflow.variables import from_object, to_markdown, to_object

TIMEOUT_HANDLE = "__timeout"
_OUTPUT_REFERENCE = re.compile(r"\{\{#\$output\.([a-zA-Z_][a-zA-Z0-9_]{0,29})#\}\}")


class Default(msgspec.Struct, kw_only=True):
    """A default value or option list: a constant, or the value of a selector."""

    type: str = "constant"
    selector: list[str] = []
    value: Any = None


class FormInput(msgspec.Struct, kw_only=True):
    """One input of the form."""

    type: str = "paragraph"
    output_variable_name: str = ""
    default: Default | None = None
    option_source: Default | None = None
    allowed_file_types: list[str] = []
    allowed_file_extensions: list[str] = []
    allowed_file_upload_methods: list[str] = []
    number_limits: int | None = None


class UserAction(msgspec.Struct, kw_only=True):
    """A button of the form; its id is the handle of the branch that it selects."""

    id: str
    title: str = ""
    button_style: str = "default"


class EmailRecipient(msgspec.Struct, kw_only=True):
    """A recipient of an e-mail: an address, or a member of the exporting workspace."""

    type: str = "external"
    """external or member."""
    email: str = ""
    """The address; empty for a member."""
    reference_id: str = ""
    """The id of a member's account."""
    user_id: str = ""
    """The name of `reference_id` in older files."""


class EmailRecipients(msgspec.Struct, kw_only=True):
    """The recipients of an e-mail."""

    include_bound_group: bool = False
    """Whether all members of the workspace get it."""
    whole_workspace: bool = False
    """The name of `include_bound_group` in older files."""
    items: list[EmailRecipient] = []
    """The recipients by name."""

    @property
    def is_for_everyone(self) -> bool:
        """Whether all accounts of the tenant get it."""
        return self.include_bound_group or self.whole_workspace


class DeliveryConfig(msgspec.Struct, kw_only=True):
    """Settings of a delivery method; only e-mail has any."""

    recipients: EmailRecipients = msgspec.field(default_factory=EmailRecipients)
    """Who gets the e-mail."""
    subject: str = ""
    body: str = ""
    """Markdown with references to variables, and `{{#url#}}` for the form's page."""
    debug_mode: bool = False
    """Whether a test run sends the e-mail only to the person who tests."""


class DeliveryMethod(msgspec.Struct, kw_only=True):
    """How people learn of the form.

    Source: langgenius/dify, api/core/workflow/human_input_adapter.py (webapp, email);
    its editor also has slack, teams and discord.
    """

    type: str = "webapp"
    """webapp, email, slack, teams or discord."""
    enabled: bool = True
    """Whether the author has chosen it."""
    config: DeliveryConfig = msgspec.field(default_factory=DeliveryConfig)
    """The recipients of an e-mail."""


class HumanInputData(NodeData, kw_only=True):
    """Data of a human input node in a DSL file."""

    form_content: str = ""
    inputs: list[FormInput] = []
    user_actions: list[UserAction] = []
    timeout: float = 36
    timeout_unit: str = "hour"
    delivery_methods: list[DeliveryMethod] = []

    @property
    def seconds(self) -> float:
        """The time until the form expires, in seconds."""
        # A unit that is not known counts as the editor's default, hours.
        return self.timeout * {"hour": 3600.0, "day": 86400.0, "minute": 60.0}.get(
            self.timeout_unit, 3600.0
        )


class HumanInputNode(Node):
    """Publishes a form and continues with the action that was chosen."""

    type = "human-input"
    kind = NodeKind.BRANCH
    Data = HumanInputData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the submitted values, or pause the run. Raises NodePaused, and
        NodeError if forms are not available."""
        if (forms := context.services.forms) is None:
            raise NodeError(
                "Forms are not available: the run is not stored",
                error_type="HumanInputUnavailable",
            )
        event_fields = self.event_fields(context.execution_id)
        # A form that was answered before a resumption has its answer here.
        answer = await forms.answer(context.key)
        if answer is None:
            form_definition = self.form(context)
            # The deadline counts from the publication of the form.
            form_access = await forms.publish(
                context.key,
                form_definition,
                context.run.now() + self.data.seconds,
                self.mails(context),
            )
            raise NodePaused(
                {
                    "TYPE": "human_input_required",
                    "node_id": self.id,
                    "node_title": self.title,
                    **form_definition,
                    **form_access,
                }
            )
        # An expired form continues on a branch of its own.
        if "expired" in answer:
            context.emit(
                NodeRunHumanInputFormTimeout(
                    **event_fields,
                    at=context.run.now(),
                    expiration_time=float(answer["expired"]),
                )
            )
            return NodeResult(
                handle=TIMEOUT_HANDLE,
                outputs={"__action_id": "", "__rendered_content": ""},
                process_data=_mail_record(answer),
            )
        return self._filled(answer, context, event_fields)

    def form(self, context: NodeContext) -> dict[str, Any]:
        """Return the form as it is sent to clients."""
        data: HumanInputData = self.data
        # Defaults are resolved when the form is published.
        defaults = {
            form_input.output_variable_name: _default_value(form_input.default, context)
            for form_input in data.inputs
            if form_input.default
        }
        inputs: list[dict[str, Any]] = []
        for form_input in data.inputs:
            input_view = msgspec.to_builtins(form_input)
            # Options of a selection may come from a variable.
            if form_input.option_source is not None:
                input_view["options"] = _default_value(
                    form_input.option_source, context
                )
            inputs.append(input_view)
        return {
            "form_content": render_for_people(data.form_content, context.pool),
            "inputs": inputs,
            "actions": [msgspec.to_builtins(action) for action in data.user_actions],
            "resolved_default_values": defaults,
        }

    def mails(self, context: NodeContext) -> list[FormMail]:
        """Return the e-mails about the form, one for each method of this kind."""
        pool = context.pool
        return [
            FormMail(
                subject=clean_subject(render_for_people(config.subject, pool)),
                body=render_body(config.body, pool),
                addresses=[
                    item.email for item in config.recipients.items if item.email
                ],
                members=_member_ids(config.recipients),
                is_for_everyone=config.recipients.is_for_everyone,
                is_debugged=config.debug_mode,
            )
            for config in self._mail_configs()
        ]

    def _mail_configs(self) -> list[DeliveryConfig]:
        """Return the settings of the e-mails that the author has enabled."""
        methods: list[DeliveryMethod] = self.data.delivery_methods
        return [
            method.config
            for method in methods
            if method.enabled and method.type == "email"
        ]

    def _filled(
        self,
        answer: Mapping[str, Any],
        context: NodeContext,
        event_fields: Mapping[str, Any],
    ) -> NodeResult:
        """Return the result of a submitted form."""
        fields: dict[str, Any] = dict(answer.get("inputs") or {})
        # Submitted files are stored as objects.
        values: dict[str, Any] = from_object(fields)
        action_id = str(answer.get("action") or "")
        title = next(
            (
                action.title
                for action in self.data.user_actions
                if action.id == action_id
            ),
            "",
        )
        # The form's text may refer to its own inputs, which are known only now.
        content = render_markdown(
            self.data.form_content,
            context.pool,
            fill=lambda part: _OUTPUT_REFERENCE.sub(
                lambda match: to_markdown(values.get(match[1])), part
            ),
        )
        context.emit(
            NodeRunHumanInputFormFilled(
                **event_fields,
                at=context.run.now(),
                action_id=action_id,
                action_text=title,
                rendered_content=content,
            )
        )
        # Inputs that were not filled in become None.
        outputs = {
            form_input.output_variable_name: values.get(form_input.output_variable_name)
            for form_input in self.data.inputs
        }
        outputs |= {
            "__action_id": action_id,
            "__action_value": title,
            "__rendered_content": content,
        }
        return NodeResult(
            handle=action_id,
            inputs=fields,
            outputs=outputs,
            process_data=_mail_record(answer),
        )

    def warnings(self) -> Sequence[str]:
        """Return what of the form's delivery does not work."""
        data: HumanInputData = self.data
        enabled = [method for method in data.delivery_methods if method.enabled]
        warnings = [
            f"The form is not sent by {method.type}; people see it where the app is used"
            for method in enabled
            if method.type not in ("webapp", "email")
        ]
        # Accounts of another installation are known by their ids only.
        members = sum(
            len(_member_ids(config.recipients)) for config in self._mail_configs()
        )
        if members:
            name = f"{members} members" if members > 1 else "a member"
            warnings.append(
                f"The form is not sent to {name} of the workspace that exported the app,"
                " unless an account here has the same id; give addresses instead"
            )
        return warnings

    def mail_warnings(self) -> Sequence[str]:
        """Return which e-mails are not sent while the server cannot send mail."""
        data: HumanInputData = self.data
        enabled = {method.type for method in data.delivery_methods if method.enabled}
        where = "people see it where the app is used"
        if enabled and "webapp" not in enabled:
            where = f"no other way was chosen, so {where} only"
        return [
            f"The form is not sent by {_description_of(config.recipients)}; {where}"
            for config in self._mail_configs()
        ]

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in the form's text and in its e-mails."""
        configs = self._mail_configs()
        texts = [text for config in configs for text in (config.subject, config.body)]
        # `$output` refers to the form's own inputs, not to a node.
        return [
            selector
            for text in (self.data.form_content, *texts)
            for selector in selectors_in(text)
            if not selector[0].startswith("$")
        ]


def _description_of(recipients: EmailRecipients) -> str:
    """Return an e-mail with its recipients."""
    names = [item.email for item in recipients.items if item.email]
    if recipients.is_for_everyone:
        names.append("all members of the workspace")
    return f"e-mail to {', '.join(names)}" if names else "e-mail"


def _member_ids(recipients: EmailRecipients) -> list[str]:
    """Return the ids of recipients that are named as members."""
    # With the whole workspace they get the mail anyway.
    if recipients.is_for_everyone:
        return []
    return [
        item.reference_id or item.user_id for item in recipients.items if not item.email
    ]


def _mail_record(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of the form's e-mails, for the node's record."""
    mails = answer.get("mails")
    return {"mails": mails} if mails else {}


def _default_value(source: Default | None, context: NodeContext) -> Any:
    """Return a constant, or the value of a selector; None without a source."""
    if source is None:
        return None
    return (
        to_object(context.value(source.selector))
        if source.type == "variable"
        else source.value
    )


NODES = {"human-input": HumanInputNode}
