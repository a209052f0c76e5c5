"""Handlers that describe an app to its clients: name, features, input form, page
settings and end users."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.json_types import is_object
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import (
    Call,
    ServiceError,
    derived_id,
    end_user_id,
    iso,
)
from modelyard.gateway.service.shapes import (
    AppInfo,
    AppMeta,
    AppParameters,
    EndUserShown,
    Site,
    SystemParameters,
)
from modelyard.gateway.service.uploads import MAX_MB
from modelyard.models.types import JSON
from modelyard.workflow.annotations import ReplySettings
from modelyard.workflow.app_appearance import appearance_of
from modelyard.workflow.app_library import AppLibrary
from modelyard.workflow.dsl import App
from modelyard.workflow.features import Features
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.nodes.start import FormField, form_of

# Clients read all of these features, so every one is present in the answer even if the
# app's file omits it.
_DEFAULTS: Mapping[str, Any] = {
    "opening_statement": "",
    "suggested_questions": [],
    "suggested_questions_after_answer": {"enabled": False},
    "speech_to_text": {"enabled": False},
    "text_to_speech": {"enabled": False},
    "retriever_resource": {"enabled": True},
    "annotation_reply": {"enabled": False},
    "more_like_this": {"enabled": False},
    "sensitive_word_avoidance": {"enabled": False},
    "file_upload": {"enabled": False},
}
_NESTED_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "text_to_speech": {"voice": "", "language": "", "autoPlay": "disabled"},
    "file_upload": {
        "image": {
            "enabled": False,
            "number_limits": 3,
            "detail": "high",
            "transfer_methods": ["remote_url", "local_file"],
        },
    },
}
"""Nested fields of features that clients read, with their defaults for files that omit
them."""
_PRIVATE_FEATURES = (
    "annotation_reply",
    "sensitive_word_avoidance",
    "suggested_questions_after_answer",
)
"""Features whose settings (models, prompts, lists of words) visitors of a page do not
see; they see whether each is on."""
_SYSTEM_PARAMETERS = SystemParameters(
    file_size_limit=MAX_MB["document"],
    image_file_size_limit=MAX_MB["image"],
    audio_file_size_limit=MAX_MB["audio"],
    video_file_size_limit=MAX_MB["video"],
    workflow_file_upload_limit=10,
)
_MAX_RUNS = 1000
"""How many of the app's newest runs are searched for an end user."""


@dataclass(frozen=True, slots=True)
class AppInfoHandlers:
    """Handlers of the requests that clients make before they show an app."""

    journal: DatabaseJournal
    library: AppLibrary
    features: Features

    async def info(self, call: Call) -> Reply:
        """GET /v1/info."""
        return json_reply(
            AppInfo(
                name=call.found.name,
                description=call.found.stored.description,
                # How a team sorts its apps is not for the visitors of a page.
                tags=[] if call.visitor else self.library.tag_names(call.found),
                mode=call.app.mode,
                author_name="",
            )
        )

    async def parameters(self, call: Call) -> Reply:
        """GET /v1/parameters: the app's features and its input form."""
        features = {name: _feature(call.app, name) for name in _DEFAULTS}
        # It is switched on by the API rather than in the file.
        settings = await self.features.reply_settings(call.found, call.app)
        features["annotation_reply"] = annotation_reply(settings)
        if call.visitor:
            features |= {
                name: {"enabled": bool(features[name].get("enabled"))}
                for name in _PRIVATE_FEATURES
            }
        return json_reply(
            AppParameters(
                **features,
                user_input_form=user_input_form(call.app),
                system_parameters=_SYSTEM_PARAMETERS,
            )
        )

    async def meta(self, call: Call) -> Reply:
        """GET /v1/meta. Always without tool icons; they belong to the plugins."""
        del call
        return json_reply(AppMeta(tool_icons={}))

    async def site(self, call: Call) -> Reply:
        """GET /v1/site: the appearance of the app's page."""
        shown = appearance_of(call.found.name, call.found.stored, call.app)
        return json_reply(
            Site(
                title=shown.name,
                chat_color_theme=None,
                chat_color_theme_inverted=False,
                icon_type=shown.icon_type,
                icon=shown.icon,
                icon_background=shown.icon_background,
                icon_url=None,
                description=shown.description,
                copyright=None,
                privacy_policy=None,
                input_placeholder=None,
                custom_disclaimer="",
                default_language="en-US",
                show_workflow_steps=True,
                use_icon_as_answer_icon=False,
            )
        )

    async def end_user(self, call: Call) -> Reply:
        """GET /v1/end-users/ID. Raises ServiceError if no recent run of the app belongs
        to the user."""
        runs, _ = await self.journal.list(call.tenant, call.found.id, limit=_MAX_RUNS)
        # End users have no table: their ids are derived from the runs' users.
        for run in runs:
            if end_user_id(run.tenant, run.app, run.user) == call.names["end_user_id"]:
                return json_reply(_user_of(run))
        raise ServiceError(404, "end_user_not_found", "End user not found.")


def annotation_reply(settings: ReplySettings) -> JSON:
    """Return the settings of annotation replies as Dify's clients read them."""
    if not settings.enabled:
        return {"enabled": False}
    return {
        "enabled": True,
        "score_threshold": settings.score_threshold,
        "embedding_model": {
            "embedding_provider_name": settings.embedding_provider_name,
            "embedding_model_name": settings.embedding_model_name,
        },
    }


def _feature(app: App, name: str) -> Any:
    """Return a feature as the app's file configures it, or its default if the file
    omits it or has the wrong type."""
    default, value = _DEFAULTS[name], app.features.get(name)
    if not isinstance(value, type(default)):
        value = default
    if is_object(value):
        # Values of the file override the defaults of the nested fields.
        return {**_NESTED_DEFAULTS.get(name, {}), **value}
    return value


def _user_of(run: RunRecord) -> EndUserShown:
    """Return the end user of a run."""
    moment = iso(run.created_at)
    return EndUserShown(
        id=end_user_id(run.tenant, run.app, run.user),
        tenant_id=derived_id(run.tenant),
        app_id=run.app,
        type="service_api",
        external_user_id=run.user,
        name=None,
        is_anonymous=False,
        session_id=run.user,
        created_at=moment,
        updated_at=moment,
    )


def user_input_form(app: App) -> list[JSON]:
    """Return the input form of an app: one object per control, keyed by the control's
    type."""
    if not app.roots:
        return []
    # Apps of the older kinds store the form ready-made; workflows declare it in their
    # start node.
    if app.model_config:
        return list(app.model_config.get("user_input_form") or ())
    fields = form_of(app.graph().nodes[app.roots[0]])
    return [{field.type: _control(field)} for field in fields]


def _control(field: FormField) -> JSON:
    """Return one control of an input form, without its empty properties."""
    control = {
        name: value
        for name, value in msgspec.to_builtins(field).items()
        if value not in (None, [], "")
    }
    control |= {
        "label": field.label or field.variable,
        "variable": field.variable,
        "required": field.required,
        "default": field.default if field.default is not None else "",
    }
    if field.type == "select":
        control["options"] = [str(option) for option in field.options]
    return control
