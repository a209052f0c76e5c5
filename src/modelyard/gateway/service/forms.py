"""Handlers for human-input forms that paused runs wait for."""

from dataclasses import dataclass

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, mapping_of
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.shapes import FormShown
from modelyard.workflow.form_answers import FormAnswers, FormClosedError, OpenForm
from modelyard.workflow.nodes.start import InputError


@dataclass(frozen=True, slots=True)
class Forms:
    """Handlers of forms. A form is found by its token until it is submitted or expires."""

    app_runs: AppRuns
    answers: FormAnswers

    async def show(self, call: Call) -> Reply:
        """GET /v1/form/human_input/TOKEN: the form's content."""
        form = await self._open_form(call)
        definition = form.definition
        return json_reply(
            FormShown(
                form_content=definition["form_content"],
                inputs=definition["inputs"],
                user_actions=definition["actions"],
                resolved_default_values=definition["resolved_default_values"],
                expiration_time=int(form.expires_at),
            )
        )

    async def fill(self, call: Call) -> Reply:
        """POST /v1/form/human_input/TOKEN: submit the form; the run resumes."""
        form = await self._open_form(call)
        try:
            await self.answers.submit(
                form,
                action=str(call.body.get("action") or ""),
                inputs=mapping_of(call.body, "inputs"),
                user=call.user,
            )
        except FormClosedError as error:
            raise ServiceError(412, error.code, str(error)) from error
        except (InvokeBadRequestError, InputError) as error:
            raise ServiceError(400, "invalid_form_data", str(error)) from error
        return json_reply({})

    async def _open_form(self, call: Call) -> OpenForm:
        """Return the form of the request's path, which is still open. Raises
        NotFoundError or ServiceError."""
        row = await self.answers.find(call.tenant, call.names["form_token"])
        # A token of another app is treated as unknown too.
        await self.app_runs.find(call, row["run"])
        try:
            return self.answers.opened(row)
        except FormClosedError as error:
            raise ServiceError(412, error.code, str(error)) from error
