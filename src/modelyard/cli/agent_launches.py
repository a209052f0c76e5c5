"""What each coding agent needs to send its model calls to a Modelyard server."""

import json
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.private_files import private_folder

KEY_VARIABLE = "MODELYARD_API_KEY"
NO_KEY = "none"
"""What agents send to a server without keys; without any key they refuse to start."""
_MAX_OUTPUT = 32_000
"""Tokens of an answer for which room is left where the model's limit is unknown."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an agent sends its calls: the server's origin, the key, the model (empty
    for the agent's own choice), its sizes, and headers of every call."""

    origin: str
    key: str = NO_KEY
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    context_size: int = 0
    """Tokens that a call may have, by which an agent knows when to summarize; 0 if they
    are unknown."""
    max_output: int = 0
    """Tokens that an answer may have; 0 if they are unknown."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a program is started with: environment variables beside those of this
    process, arguments before the user's, and the texts of temporary files whose paths
    are in environment variables."""

    environ: Mapping[str, str]
    arguments: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])


def _claude(target: Target) -> Launch:
    """Return how Claude Code is started: it speaks Anthropic's format.

    https://docs.anthropic.com/en/docs/claude-code/llm-gateway
    """
    environ = {
        "ANTHROPIC_BASE_URL": target.origin,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_CUSTOM_HEADERS": _header_lines(target, "\n"),
    }
    if target.model:
        # Titles, summaries and subagents have models of their own.
        for name in ("MODEL", "SMALL_FAST_MODEL", *_CLAUDE_TIERS):
            environ[f"ANTHROPIC_{name}"] = target.model
    return Launch(environ)


_CLAUDE_TIERS = (
    "DEFAULT_OPUS_MODEL",
    "DEFAULT_SONNET_MODEL",
    "DEFAULT_HAIKU_MODEL",
)


def _codex(target: Target) -> Launch:
    """Return how Codex is started: it speaks OpenAI's Responses format. Each `-c` sets
    a value of its settings file; JSON texts are TOML texts too."""
    provider = "model_providers.modelyard"
    values: dict[str, str | int] = {
        "model_provider": "modelyard",
        f"{provider}.name": "Modelyard",
        f"{provider}.base_url": f"{target.origin}/v1",
        # Other users of the machine can read arguments, but not the environment.
        f"{provider}.env_key": KEY_VARIABLE,
        f"{provider}.wire_api": "responses",
    }
    if target.model:
        values["model"] = target.model
    if target.context_size:
        values["model_context_window"] = target.context_size
    headers = {f"{provider}.http_headers.{n}": v for n, v in target.headers.items()}
    options = [
        option
        for name, value in (values | headers).items()
        for option in ("-c", f"{name}={json.dumps(value)}")
    ]
    return Launch({KEY_VARIABLE: target.key}, options)


def _gemini(target: Target) -> Launch:
    """Return how Gemini CLI is started: it speaks Google's format.

    It takes a key without a question only if a settings file says so. That is given as
    the system's default, below the user's own settings. Raises ConfigError if those
    say that it signs in with Google, since it would then not use the server.
    """
    environ = {
        "GOOGLE_GEMINI_BASE_URL": target.origin,
        "GEMINI_API_KEY": target.key,
        "GEMINI_CLI_CUSTOM_HEADERS": _header_lines(target, ", "),
    }
    if target.model:
        environ["GEMINI_MODEL"] = target.model
    chosen = _gemini_sign_in(Path("~/.gemini/settings.json").expanduser())
    if chosen not in ("", _GEMINI_BY_KEY):
        raise ConfigError(
            f"Gemini CLI signs in by {chosen!r}; choose an API key with its command"
            " /auth, or remove 'security.auth' in ~/.gemini/settings.json"
        )
    settings: dict[str, object] = {
        "security": {"auth": {"selectedType": _GEMINI_BY_KEY}}
    }
    if target.model:
        settings["modelConfigs"] = {
            "customOverrides": [
                {"match": {"model": name}, "modelConfig": {"model": target.model}}
                for name in _GEMINI_CALLS
            ]
        }
    files = {"GEMINI_CLI_SYSTEM_DEFAULTS_PATH": json.dumps(settings)}
    return Launch(environ, files=files)


_GEMINI_BY_KEY = "gemini-api-key"
_GEMINI_CALLS = (
    "base",
    "chat-compression-default",
    "chat-compression-3-pro",
    "chat-compression-3-flash",
    "chat-compression-3.1-flash-lite",
    "chat-compression-2.5-pro",
    "chat-compression-2.5-flash",
    "chat-compression-2.5-flash-lite",
    "agent-history-provider-summarizer",
)
"""Its kinds of calls that have models of their own: searches, summaries and others are
kinds of `base`."""


def _gemini_sign_in(path: Path) -> str:
    """Return how the user's settings say that Gemini CLI signs in, or an empty text."""
    try:
        settings = json.loads(path.read_text("utf-8"))
        return str(settings["security"]["auth"]["selectedType"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _opencode(target: Target) -> Launch:
    """Return how opencode is started: it speaks OpenAI's chat format. Its settings come
    in an environment variable, in addition to its files."""
    options = {
        "baseURL": f"{target.origin}/v1",
        "apiKey": target.key,
        "headers": dict(target.headers),
    }
    provider: dict[str, object] = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Modelyard",
        "options": options,
    }
    settings: dict[str, object] = {"provider": {"modelyard": provider}}
    if target.model:
        # Without this it keeps pictures to itself.
        modalities = {"input": ["text", "image"], "output": ["text"]}
        model: dict[str, object] = {
            "name": target.model,
            "attachment": True,
            "modalities": modalities,
        }
        # Without this it never summarizes, until the model refuses a call.
        if target.context_size:
            model["limit"] = _opencode_limit(target)
        provider["models"] = {target.model: model}
        settings["model"] = f"modelyard/{target.model}"
        # Without this it may take a model of another provider for titles.
        settings["small_model"] = settings["model"]
    return Launch({"OPENCODE_CONFIG_CONTENT": json.dumps(settings)})


def _opencode_limit(target: Target) -> dict[str, int]:
    """Return the sizes of a model as opencode's settings have them: it requires both."""
    output = target.max_output or _MAX_OUTPUT
    # It summarizes when the rest of the context is smaller than an answer.
    return {
        "context": target.context_size,
        "output": min(output, target.context_size // 4),
    }


def _qwen(target: Target) -> Launch:
    """Return how Qwen Code is started: it speaks OpenAI's chat format. Headers can only
    be set in a settings file."""
    headers = dict(target.headers)
    # By their names it takes most models for such that see no pictures.
    generation: dict[str, object] = {
        "customHeaders": headers,
        "modalities": {"image": True},
    }
    if target.context_size:
        generation["contextWindowSize"] = target.context_size
    settings = {"model": {"generationConfig": generation}}
    environ = {
        "OPENAI_BASE_URL": f"{target.origin}/v1",
        "OPENAI_API_KEY": target.key,
    }
    if target.model:
        environ["OPENAI_MODEL"] = target.model
    files = {"QWEN_CODE_SYSTEM_DEFAULTS_PATH": json.dumps(settings)}
    return Launch(environ, ["--auth-type", "openai"], files)


def _header_lines(target: Target, separator: str) -> str:
    """Return the headers as `Name: value` with this separator between them."""
    return separator.join(f"{name}: {value}" for name, value in target.headers.items())


PROGRAMS: Mapping[str, Callable[[Target], Launch]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "opencode": _opencode,
    "qwen": _qwen,
}


@contextmanager
def temporary_files(
    files: Mapping[str, str], home: Path
) -> Generator[dict[str, str], None, None]:
    """Write the texts to temporary files until the block ends. Yields their paths by
    the same names.

    They are in the home folder, since Gemini CLI reads no settings of the system from
    a folder in which others may write.
    """
    if files:
        private_folder(home)
    with tempfile.TemporaryDirectory(
        prefix="run-", dir=home if files else None
    ) as folder:
        paths: dict[str, str] = {}
        for name, text in files.items():
            path = Path(folder) / f"{name.lower()}.json"
            path.write_text(text, "utf-8")
            paths[name] = str(path)
        yield paths
