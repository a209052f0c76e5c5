"""Forms that runs wait for."""

from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, mapping_of
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.shapes import FormShown
from modelyard.models.types import JSON
from modelyard.workflow.runs import Runs


@dataclass(frozen=True, slots=True)
class Forms:
    """Each is found by its token, as long as nobody filled it in and its time is not over."""

    runs: Runs
    app_runs: AppRuns

    async def show(self, call: Call) -> Reply:
        """GET /v1/form/human_input/TOKEN."""
        row, form = await self._waiting(call)
        return json_reply(FormShown(
            form_content=form["form_content"], inputs=form["inputs"], user_actions=form["actions"],
            resolved_default_values=form["resolved_default_values"], expiration_time=int(row["expires_at"]),
        ))  # fmt: skip

    async def fill(self, call: Call) -> Reply:
        """POST /v1/form/human_input/TOKEN: the run goes on."""
        _, form = await self._waiting(call)
        user, action, inputs = call.user, _action(call, form), _inputs(call, form)
        answer = {"inputs": inputs, "action": action, "user": user}
        filled = await self.runs.journal.forms.fill(call.names["form_token"], answer)
        if filled is None:
            raise ServiceError(412, "human_input_form_submitted", "the form was filled in already")
        await self.runs.resume_soon(*filled)
        return json_reply({})

    async def _waiting(self, call: Call) -> tuple[Any, JSON]:
        """(the form's row, what the form says). Raises NotFoundError, ServiceError where nobody waits for it."""
        row = await self.runs.journal.forms.by_token(call.names["form_token"])
        if row is None or row["tenant"] != call.tenant:
            raise NotFoundError("the form does not exist")
        await self.app_runs.find(call, row["run"])
        if row["answer"]:
            is_expired = "expired" in msgspec.json.decode(row["answer"])
            code = "human_input_form_expired" if is_expired else "human_input_form_submitted"
            raise ServiceError(412, code, "the form was filled in already, or its time is over")
        return row, msgspec.json.decode(row["body"])


def _action(call: Call, form: JSON) -> str:
    """What the user chose. Raises ServiceError for what the form does not offer."""
    action = str(call.body.get("action") or "")
    actions = [offered["id"] for offered in form["actions"]]
    if action not in actions:
        message = f"action must be one of {', '.join(actions)}, not {action[:40]!r}"
        raise ServiceError(400, "invalid_form_data", message)
    return action


def _inputs(call: Call, form: JSON) -> JSON:
    """What was filled in, over the form's defaults. Raises ServiceError where something is missing."""
    inputs, defaults = mapping_of(call.body, "inputs"), form["resolved_default_values"]
    filled = {**defaults, **inputs}
    wanted = [field["output_variable_name"] for field in form["inputs"]]
    lacking = [name for name in wanted if name not in filled]
    if lacking:
        raise ServiceError(400, "invalid_form_data", f"{', '.join(lacking)} is missing")
    return filled
