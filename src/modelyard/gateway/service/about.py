"""What an app says of itself, and of whom it is used by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, end_user_id, iso, made_id
from modelyard.gateway.service.shapes import AppInfo, AppMeta, AppParameters, EndUserShown, Site, SystemParameters
from modelyard.gateway.service.uploads import MOST_MB
from modelyard.models.types import JSON
from modelyard.workflow.dsl import App
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.nodes.start import form_of

_DEFAULTS: Mapping[str, Any] = {
    "opening_statement": "", "suggested_questions": [], "suggested_questions_after_answer": {"enabled": False},
    "speech_to_text": {"enabled": False}, "text_to_speech": {"enabled": False}, "retriever_resource": {"enabled": True},
    "annotation_reply": {"enabled": False}, "more_like_this": {"enabled": False},
    "sensitive_word_avoidance": {"enabled": False}, "file_upload": {"enabled": False},
}  # fmt: skip
_WITHIN: Mapping[str, Mapping[str, Any]] = {
    "text_to_speech": {"voice": "", "language": "", "autoPlay": "disabled"},
    "file_upload": {
        "image": {
            "enabled": False, "number_limits": 3, "detail": "high", "transfer_methods": ["remote_url", "local_file"],
        },
    },
}  # fmt: skip
"""What features hold that clients read, where an app's file leaves it out."""
_SYSTEM_PARAMETERS = SystemParameters(
    file_size_limit=MOST_MB["document"], image_file_size_limit=MOST_MB["image"],
    audio_file_size_limit=MOST_MB["audio"], video_file_size_limit=MOST_MB["video"], workflow_file_upload_limit=10,
)  # fmt: skip
_MOST_RUNS = 1000
"""The newest of an app, among which a user is looked for."""


@dataclass(frozen=True, slots=True)
class AboutApp:
    """Answers what clients ask before they show anything."""

    journal: DatabaseJournal

    async def info(self, call: Call) -> Reply:
        """GET /v1/info."""
        app = call.app
        return json_reply(AppInfo(
            name=call.found.name, description=app.description, tags=[], mode=app.mode, author_name=""
        ))  # fmt: skip

    async def parameters(self, call: Call) -> Reply:
        """GET /v1/parameters: which features are on, and what the app asks for."""
        shown = {name: _feature(call.app, name) for name in _DEFAULTS}
        return json_reply(AppParameters(
            **shown, user_input_form=user_input_form(call.app), system_parameters=_SYSTEM_PARAMETERS
        ))  # fmt: skip

    async def meta(self, call: Call) -> Reply:
        """GET /v1/meta. Icons of tools are the plugins'; none are told."""
        del call
        return json_reply(AppMeta(tool_icons={}))

    async def site(self, call: Call) -> Reply:
        """GET /v1/site: how the app's page looks."""
        app = call.app
        return json_reply(Site(
            title=call.found.name, chat_color_theme=None, chat_color_theme_inverted=False, icon_type=app.icon_type,
            icon=app.icon, icon_background=app.icon_background, icon_url=None, description=app.description,
            copyright=None, privacy_policy=None, input_placeholder=None, custom_disclaimer="",
            default_language="en-US", show_workflow_steps=True, use_icon_as_answer_icon=False,
        ))  # fmt: skip

    async def end_user(self, call: Call) -> Reply:
        """GET /v1/end-users/ID."""
        runs, _ = await self.journal.list(call.tenant, call.found.id, most=_MOST_RUNS)
        for run in runs:
            if end_user_id(run.tenant, run.app, run.user) == call.names["end_user_id"]:
                return json_reply(_user_of(run))
        raise ServiceError(404, "end_user_not_found", "End user not found.")


def _feature(app: App, name: str) -> Any:
    """As the app's file has it. What the file leaves out, or has as something else than clients read, is as usual."""
    default, value = _DEFAULTS[name], app.features.get(name)
    if not isinstance(value, type(default)):
        value = default
    if isinstance(value, dict):
        return {**_WITHIN.get(name, {}), **value}
    return value


def _user_of(run: RunRecord) -> EndUserShown:
    moment = iso(run.created_at)
    return EndUserShown(
        id=end_user_id(run.tenant, run.app, run.user), tenant_id=made_id(run.tenant), app_id=run.app,
        type="service_api", external_user_id=run.user, name=None, is_anonymous=False, session_id=run.user,
        created_at=moment, updated_at=moment,
    )  # fmt: skip


def user_input_form(app: App) -> list[JSON]:
    """What an app asks for, one control an entry."""
    if not app.roots:
        return []
    if app.model_config:
        return list(app.model_config.get("user_input_form") or ())
    controls: list[JSON] = []
    for one in form_of(app.graph().nodes[app.roots[0]]):
        control = {name: value for name, value in msgspec.to_builtins(one).items() if value not in (None, [], "")}
        control |= {"label": one.label or one.variable, "variable": one.variable, "required": one.required,
                    "default": one.default if one.default is not None else ""}  # fmt: skip
        if one.type == "select":
            control["options"] = [str(option) for option in one.options]
        controls.append({one.type: control})
    return controls
