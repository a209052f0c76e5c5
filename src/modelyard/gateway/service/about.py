"""What an app says of itself, its files and its speech, as callers of the service API see them."""

import asyncio
import mimetypes
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, StreamReply, audio_reply, json_reply
from modelyard.gateway.service.calls import Call, Handler, ServiceError, end_user_id, iso, made_id
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.tenant_content import FILE, disposition, media_type
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.caller import Caller
from modelyard.storage.files import StoredFile
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.services import file_kind, stored_id, upload_id

_UPLOAD_MB = {"image": 10, "video": 100, "audio": 50, "document": 15, "custom": 15}
_MOST_AUDIO_MB = 30
_PREVIEW_SECONDS = 300.0
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


class AboutCalls:
    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/files/upload": {"POST": self.upload},
            "/v1/files/": {"GET": self.preview},
            "/v1/info": {"GET": self.info},
            "/v1/parameters": {"GET": self.parameters},
            "/v1/meta": {"GET": self.meta},
            "/v1/site": {"GET": self.site},
            "/v1/end-users/": {"GET": self.one_user},
            "/v1/audio-to-text": {"POST": self.transcribe},
            "/v1/text-to-audio": {"POST": self.speak},
        }  # fmt: skip

    async def upload(self, call: Call) -> Reply:
        data = await call.request.body()
        form = parse_form(
            call.request.header(b"content-type") or "", data,
            wanted="send the file as multipart/form-data, in the field 'file'",
        )  # fmt: skip
        if form.file is None:
            raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
        if not form.filename:
            raise ServiceError(400, "filename_not_exists_error", "The specified filename does not exist.")
        user = call.visitor or form.fields.get("user") or ""
        stored = await asyncio.to_thread(
            self._parts.files.add, call.tenant, form.filename, form.file, owner=user, app=call.found.id
        )
        most = _UPLOAD_MB[file_kind(stored.extension, stored.mime_type)]
        if stored.size > most << 20:
            await asyncio.to_thread(self._parts.files.remove, call.tenant, stored.id)
            raise ServiceError(413, "file_too_large", f"File size exceeded: {most} MB is the most for such a file.")
        return json_reply(self._uploaded(stored, call, user), status=201)

    def _uploaded(self, stored: StoredFile, call: Call, user: str) -> JSON:
        end_user = end_user_id(call.tenant, call.found.id, user)
        query = self._parts.files.sign("read", call.tenant, stored.id, seconds=_PREVIEW_SECONDS)
        return {
            "id": upload_id(stored.id), "reference": upload_id(stored.id), "name": stored.name, "size": stored.size,
            "extension": stored.extension.lstrip("."), "mime_type": stored.mime_type, "created_by": end_user,
            "created_at": int(stored.created_at), "preview_url": None,
            "source_url": f"{self._parts.content_origin()}/files/{stored.id}?{query}", "user_id": end_user,
            "tenant_id": made_id(call.tenant), "conversation_id": None, "file_key": None,
            "original_url": None,
        }  # fmt: skip

    async def preview(self, call: Call) -> Reply:
        name = call.subject("preview")
        user = call.visitor or call.request.query("user") or ""
        missing = ServiceError(404, "file_not_found", "The requested file was not found.")
        try:
            stored, data = await asyncio.to_thread(self._parts.files.get, call.tenant, stored_id(name))
        except NotFoundError:
            raise missing from None
        # An app's key reaches what was handed to that app: what has an owner by its owner's name alone.
        is_apps = stored.app == call.found.id if not stored.owner else stored.app in ("", call.found.id)
        if not is_apps or (stored.owner and not user):
            raise missing
        if stored.owner and stored.owner != user:
            raise ServiceError(403, "file_access_denied", "Access to the requested file is denied.")
        as_file = (call.request.query("as_attachment") or "").lower() == "true"
        kind = stored.mime_type
        # What a browser could run is handed over, never shown.
        is_safe = kind.startswith(("image/", "audio/", "video/")) and "svg" not in kind
        how = "attachment" if as_file or not is_safe else "inline"
        headers = {**FILE, "content-disposition": disposition(how, f"{stored.id}{stored.extension}")}
        return Reply(data, content_type=media_type(kind), headers=headers)

    async def info(self, call: Call) -> Reply:
        return json_reply({
            "name": call.found.name, "description": call.app.description, "tags": [], "mode": call.app.mode,
            "author_name": "",
        })  # fmt: skip

    async def parameters(self, call: Call) -> Reply:
        features = {**_DEFAULTS, **{name: one for name, one in call.app.features.items() if one is not None}}
        shown = {name: features[name] for name in _DEFAULTS}
        for name, default in _WITHIN.items():
            shown[name] = {**default, **shown[name]} if isinstance(shown[name], dict) else shown[name]
        return json_reply({
            **shown,
            "user_input_form": user_input_form(call.app),
            "system_parameters": {
                "file_size_limit": _UPLOAD_MB["document"], "image_file_size_limit": _UPLOAD_MB["image"],
                "audio_file_size_limit": _UPLOAD_MB["audio"], "video_file_size_limit": _UPLOAD_MB["video"],
                "workflow_file_upload_limit": 10,
            },
        })  # fmt: skip

    async def meta(self, call: Call) -> Reply:
        return json_reply({"tool_icons": {}})

    async def site(self, call: Call) -> Reply:
        app = call.app
        return json_reply({
            "title": call.found.name, "chat_color_theme": None, "chat_color_theme_inverted": False,
            "icon_type": app.icon_type, "icon": app.icon, "icon_background": app.icon_background, "icon_url": None,
            "description": app.description, "copyright": None, "privacy_policy": None, "input_placeholder": None,
            "custom_disclaimer": "", "default_language": "en-US", "show_workflow_steps": True,
            "use_icon_as_answer_icon": False,
        })  # fmt: skip

    async def one_user(self, call: Call) -> Reply:
        found, _ = await self._parts.runs.journal.list(call.tenant, call.found.id, most=1000)
        for run in found:
            row = end_user_id(run.tenant, run.app, run.user)
            if row == call.rest:
                return json_reply({
                    "id": row, "tenant_id": made_id(run.tenant), "app_id": run.app,
                    "type": "service_api", "external_user_id": run.user, "name": None, "is_anonymous": False,
                    "session_id": run.user, "created_at": iso(run.created_at), "updated_at": iso(run.created_at),
                })  # fmt: skip
        raise ServiceError(404, "end_user_not_found", "End user not found.")

    async def transcribe(self, call: Call) -> Reply:
        if not (call.app.features.get("speech_to_text") or {}).get("enabled"):
            raise ServiceError(400, "speech_to_text_disabled", "Speech to text is not enabled for this app.")
        form = parse_form(
            call.request.header(b"content-type") or "", await call.request.body(),
            wanted="send the recording as multipart/form-data, in the field 'file'",
        )  # fmt: skip
        if form.file is None:
            raise ServiceError(400, "no_audio_uploaded", "Please upload your audio.")
        if len(form.file) > _MOST_AUDIO_MB << 20:
            raise ServiceError(413, "audio_too_large", f"Audio size larger than {_MOST_AUDIO_MB} mb.")
        name, ending = form.filename or "audio", PurePosixPath(form.filename or "").suffix.lower()
        if ending and file_kind(ending, mimetypes.guess_type(name)[0] or "") not in ("audio", "video"):
            raise ServiceError(415, "unsupported_audio_type", f"{name[:80]!r} is no recording.")
        model = self._parts.models.find(Caller(tenant=call.tenant), "default-speech2text", ModelType.SPEECH2TEXT)
        asked = Speech2TextRequest(audio=form.file, filename=name)
        return json_reply({"text": (await call.request.while_here(model.invoke_speech2text(asked))).text})

    async def speak(self, call: Call) -> StreamReply:
        text = call.body.get("text")
        if message := call.body.get("message_id"):
            told = await self._parts.conversations.message(call.tenant, call.found.id, str(message))
            if told.user != call.named_user:
                raise NotFoundError("Message Not Exists.")
            text = told.answer
        if not isinstance(text, str) or not text.strip():
            raise ServiceError(400, "invalid_param", "text or message_id is required")
        feature = call.app.features.get("text_to_speech") or {}
        voice = str(call.body.get("voice") or feature.get("voice") or "default")
        model = self._parts.models.find(Caller(tenant=call.tenant), "default-tts", ModelType.TTS)

        async def pieces() -> AsyncGenerator[bytes, None]:
            asked = TTSRequest(text=text, voice=voice, format="mp3")
            async with aclosing(model.invoke_tts(asked)) as chunks:
                async for chunk in chunks:
                    if chunk.audio:
                        yield chunk.audio

        return audio_reply(pieces(), "audio/mpeg")


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
