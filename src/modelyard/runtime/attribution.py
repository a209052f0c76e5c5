"""What a call belongs to besides its key: the session of an agent, a project, and tags.

Callers say so in headers of ours, and agents in fields of their vendor's API.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_object

MAX_NAME = 128
"""The longest session or project, in characters."""
# A usage sum is stored for each combination of tags.
_MAX_TAGS = 10
# No blanks at the ends, since headers lose them on their way (RFC 9110, 5.5).
_NAME = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
# ASCII alone: headers carry nothing else safely, and tags are columns of
# exported tables.
_TAG = re.compile(r"[\w.:/@=+-]{1,64}", re.ASCII)
# What Claude Code wrote before it wrote JSON.
_OLD_USER = re.compile(
    r"user_([0-9a-f]{8,64})_account_([0-9a-f-]*)_session_([0-9a-f-]+)"
)
# Claude Code sends its ids as JSON in the field of the user; longer texts are none.
_MAX_USER_JSON = 4096


class Attribution(NamedTuple):
    """What a call belongs to; an empty text where nobody says."""

    session: str = ""
    project: str = ""
    tags: str = ""
    """Sorted, with commas between."""


def read_name(value: str, header: str) -> str:
    """Return a session or project from a header. Raises InvokeBadRequestError if it is
    too long or not printable ASCII."""
    if not value or _NAME.fullmatch(value):
        return value
    raise InvokeBadRequestError(
        f"{header!r} must be at most {MAX_NAME} printable ASCII characters",
        param=header,
    )


def read_tags(value: str, header: str) -> str:
    """Return the tags of a header with commas, each once and sorted. Raises
    InvokeBadRequestError for an invalid tag and for more than ten."""
    tags = {tag.strip() for tag in value.split(",")} - {""}
    if len(tags) > _MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in tags):
        raise InvokeBadRequestError(
            f"{header!r} must be at most {_MAX_TAGS} tags with commas between, each of 1"
            " to 64 letters, digits and _.:/@=+-",
            param=header,
        )
    return ",".join(sorted(tags))


def split_user(user: str | None) -> tuple[str | None, str]:
    """Return (user, session) of the user that a request names.

    Claude Code puts its account, its device and its session into this one text. Any
    other text is the user.
    """
    if user is None or not user.startswith(("{", "user_")):
        return user, ""
    if (old := _OLD_USER.fullmatch(user)) is not None:
        device, account, session = old.groups()
        return account or device, session
    # A caller chooses this text, so it is not decoded whatever its length.
    if len(user) > _MAX_USER_JSON:
        return user, ""
    try:
        fields = msgspec.json.decode(user, type=_ClaudeCodeUser)
    except msgspec.MsgspecError:
        return user, ""
    named = fields.account_uuid or fields.device_id
    return named or user, known_name(fields.session_id)


class _ClaudeCodeUser(msgspec.Struct, frozen=True):
    """The JSON in `metadata.user_id` of Claude Code."""

    account_uuid: str = ""
    device_id: str = ""
    session_id: str = ""


def with_request(stated: Attribution, request: Any, session: str) -> Attribution:
    """Return the attribution of a call: what the headers state, else what the request
    itself says. `session` is that of the request's user."""
    extra: Mapping[str, Any] = getattr(request, "extra", None) or {}
    cache_key = _first_text(extra.values(), "prompt_cache_key")
    parameters: Mapping[str, Any] = getattr(request, "model_parameters", None) or {}
    metadata: Any = parameters.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    metadata = cast("dict[str, Any]", metadata)
    return Attribution(
        stated.session
        or session
        or known_name(metadata.get("session_id"))
        or known_name(cache_key),
        stated.project or known_name(metadata.get("project")),
        stated.tags or _known_tags(metadata.get("tags")),
    )


def _first_text(formats: Any, name: str) -> str:
    """Return a field of a request's own format, or an empty text."""
    for fields in formats:
        value: Any = fields.get(name) if is_object(fields) else None
        if isinstance(value, str):
            return value
    return ""


def known_name(value: Any) -> str:
    """Return a name that the request carries for its vendor; empty if it is no name."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""


def _known_tags(value: Any) -> str:
    """Return the tags that the request carries for its vendor; empty if they are no
    tags."""
    try:
        return read_tags(value, "tags") if isinstance(value, str) else ""
    except InvokeBadRequestError:
        return ""
