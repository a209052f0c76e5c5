"""Handlers for human-input forms that paused runs wait for."""

from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, mapping_of
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.shapes import FormShown
from modelyard.models.types import JSON
from modelyard.workflow.chats import Chats
from modelyard.workflow.form_inputs import checked_inputs
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True)
class Forms:
    """Handlers of forms. A form is found by its token until it is submitted or expires."""

    runs: Runs
    app_runs: AppRuns
    chats: Chats

    async def show(self, call: Call) -> Reply:
        """GET /v1/form/human_input/TOKEN: the form's content."""
        row, form = await self._open_form(call)
        return json_reply(
            FormShown(
                form_content=form["form_content"],
                inputs=form["inputs"],
                user_actions=form["actions"],
                resolved_default_values=form["resolved_default_values"],
                expiration_time=int(row["expires_at"]),
            )
        )

    async def fill(self, call: Call) -> Reply:
        """POST /v1/form/human_input/TOKEN: submit the form; the run resumes."""
        _, form = await self._open_form(call)
        user, action = call.user, _action(call, form)
        inputs = await self._checked(call, form, _inputs(call, form))
        answer = {"inputs": inputs, "action": action, "user": user}
        # `fill` is atomic: of two simultaneous submissions, one gets None.
        filled = await self.runs.journal.forms.fill(call.names["form_token"], answer)
        if filled is None:
            raise ServiceError(
                412, "human_input_form_submitted", "The form was already submitted"
            )
        # The run resumes in the background; the submitter does not wait for it.
        await self.runs.resume_soon(*filled)
        return json_reply({})

    async def _checked(self, call: Call, form: JSON, inputs: JSON) -> JSON:
        """Return the inputs with their files resolved. Raises ServiceError for a value
        that the form does not allow."""
        files = self.chats.files_of(call.tenant, call.user)
        try:
            return await checked_inputs(form["inputs"], inputs, files)
        except InvokeBadRequestError as error:
            raise ServiceError(400, "invalid_form_data", str(error)) from error

    async def _open_form(self, call: Call) -> tuple[Any, JSON]:
        """Return (row, form) of a form that is still open. Raises NotFoundError or
        ServiceError."""
        row = await self.runs.journal.forms.by_token(call.names["form_token"])
        # A token of another tenant is treated as unknown, and below, one of another app
        # too.
        if row is None or row["tenant"] != call.tenant:
            raise NotFoundError("The form does not exist")
        await self.app_runs.find(call, row["run"])
        if row["answer"]:
            # An expired form is stored with an answer of its own.
            is_expired = "expired" in msgspec.json.decode(row["answer"])
            code = (
                "human_input_form_expired"
                if is_expired
                else "human_input_form_submitted"
            )
            raise ServiceError(
                412, code, "The form was already submitted or has expired"
            )
        return row, msgspec.json.decode(row["body"])


def _action(call: Call, form: JSON) -> str:
    """Return the chosen action. Raises ServiceError if the form does not offer it."""
    action = str(call.body.get("action") or "")
    actions = [offered["id"] for offered in form["actions"]]
    if action not in actions:
        message = f"'action' must be one of {', '.join(actions)}, not {action[:40]!r}"
        raise ServiceError(400, "invalid_form_data", message)
    return action


def _inputs(call: Call, form: JSON) -> JSON:
    """Return the submitted inputs over the form's defaults. Raises ServiceError if a
    field has no value."""
    inputs, defaults = mapping_of(call.body, "inputs"), form["resolved_default_values"]
    # Values beyond the form's fields are passed to the run as well.
    filled = {**defaults, **inputs}
    required_names = [field["output_variable_name"] for field in form["inputs"]]
    lacking = [name for name in required_names if name not in filled]
    if lacking:
        raise ServiceError(
            400, "invalid_form_data", f"Missing inputs: {', '.join(lacking)}"
        )
    return filled
