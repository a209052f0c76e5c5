"""Has a model write a prompt, a program for a code node, or a JSON schema from an
instruction, and returns it only if it is valid.

The instruction is data in a fixed prompt, and so is the answer: a program is parsed in
the sandbox and never run, a schema is compiled, and a prompt's variables are read from
its text. A model whose answer is not valid is asked once more, with the reason.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.json_types import is_object
from modelyard.base.schemas import SchemaError, compile_schema
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AssistantPromptMessage,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.sandbox.runner import SandboxError, SandboxUnavailableError
from modelyard.tenancy.caller import Caller
from modelyard.workflow.generator_programs import CHECKERS, CodeCheck
from modelyard.workflow.generator_prompts import code_task, prompt_task, schema_task
from modelyard.workflow.structured_output import StructuredOutputError, parsed_json
from modelyard.workflow.thinking import split_thinking

T = TypeVar("T")
LANGUAGES = ("python3", "javascript")

_MAX_INSTRUCTION = 20_000
# An answer is searched by expressions and parsed, so its length is limited.
_MAX_ANSWER = 100_000
_ATTEMPTS = 2
# A low temperature: programs and schemas are to be right rather than original.
_PARAMETERS = {"temperature": 0.2, "max_tokens": 4096}
_FENCE = re.compile(r"```([A-Za-z0-9_+-]{0,20})[ \t]*\r?\n(.*?)```", re.DOTALL)
_BRACES = re.compile(r"\{\{([^{}]{0,200})\}\}")
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,29}")
_TYPES = (
    "string",
    "number",
    "boolean",
    "object",
    "array[string]",
    "array[number]",
    "array[boolean]",
    "array[object]",
)


class GenerationError(ModelyardError):
    """The model did not write what was asked for, in two attempts."""

    code = "generation_failed"


class GeneratedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt with `{{name}}` for its variables."""

    prompt: str
    variables: list[str]
    """The variables in the order in which they occur."""
    opening_statement: str = ""


class CodeVariable(msgspec.Struct, frozen=True, kw_only=True):
    """An input or an output of a program."""

    name: str
    type: str
    """A type of a code node's outputs, as `string` or `array[number]`."""


class GeneratedCode(msgspec.Struct, frozen=True, kw_only=True):
    """A program for a code node."""

    language: str
    code: str
    inputs: list[CodeVariable]
    outputs: list[CodeVariable]


class GeneratedSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON schema for structured output."""

    schema: dict[str, Any]


class _InvalidAnswer(Exception):
    """Why an answer of the model cannot be used. The model reads it."""


class RunCode(Protocol):
    """Runs a program in the sandbox."""

    async def __call__(
        self, language: str, code: str, inputs: Mapping[str, Any], *, tenant: str
    ) -> Any:
        """Return the result of `main`. Raises SandboxError."""
        ...


class Generators:
    """Generates prompts, programs and schemas."""

    def __init__(self, models: ModelManager, run_code: RunCode) -> None:
        self._models = models
        self._run_code = run_code

    async def prompt(
        self, caller: Caller, instruction: str, *, model: str = "", current: str = ""
    ) -> GeneratedPrompt:
        """Return a prompt for an instruction, or `current` changed accordingly.

        Raises InvokeBadRequestError for an unusable instruction, NotFoundError for an
        unknown model, GenerationError, and the provider's error.
        """
        return await self._generate(
            caller, model, prompt_task(), instruction, current, _read_prompt
        )

    async def schema(
        self, caller: Caller, instruction: str, *, model: str = "", current: str = ""
    ) -> GeneratedSchema:
        """Return a JSON schema of an object. Raises like `prompt`."""
        return await self._generate(
            caller, model, schema_task(), instruction, current, _read_schema
        )

    async def code(
        self,
        caller: Caller,
        instruction: str,
        language: str,
        *,
        model: str = "",
        current: str = "",
    ) -> GeneratedCode:
        """Return a program in one of LANGUAGES whose `main` takes the inputs and returns
        the outputs.

        Raises like `prompt`, and SandboxUnavailableError if programs cannot be checked.
        """

        async def read(text: str) -> GeneratedCode:
            """Return the program of an answer. Raises _InvalidAnswer."""
            return await self._read_code(text, language, caller.tenant)

        task = code_task(language, _TYPES)
        return await self._generate(caller, model, task, instruction, current, read)

    async def _generate(
        self,
        caller: Caller,
        model: str,
        task: str,
        instruction: str,
        current: str,
        read: Callable[[str], Awaitable[T]],
    ) -> T:
        """Ask the model until its answer can be read, at most twice."""
        instance = self._models.find(caller, model or "default", ModelType.LLM)
        messages: list[Any] = [
            SystemPromptMessage(content=task),
            UserPromptMessage(content=_request_text(instruction, current)),
        ]
        problem = ""
        for _ in range(_ATTEMPTS):
            request = LLMRequest(
                messages=list(messages), model_parameters=dict(_PARAMETERS)
            )
            text = (await instance.invoke_llm(request)).text[:_MAX_ANSWER]
            try:
                return await read(split_thinking(text)[1])
            except _InvalidAnswer as error:
                problem = str(error)
            # An empty message of the assistant is refused by some providers.
            messages += [
                AssistantPromptMessage(content=text.strip() or "(empty)"),
                UserPromptMessage(
                    content=f"This cannot be used. {problem}. Answer again, completely"
                    " and in the required format."
                ),
            ]
        raise GenerationError(
            f"Model {instance.name} wrote nothing usable in {_ATTEMPTS} attempts."
            f" {problem}. Make the instruction more specific, or choose a larger model"
        )

    async def _read_code(self, text: str, language: str, tenant: str) -> GeneratedCode:
        """Return the program of an answer, after parsing it in the sandbox. Raises
        _InvalidAnswer and SandboxUnavailableError."""
        declaration, code = _code_blocks(text)
        inputs = _variables(declaration, "inputs")
        outputs = _variables(declaration, "outputs")
        # Later nodes could read nothing from a program without outputs.
        if not outputs:
            raise _InvalidAnswer("'outputs' is empty; a program needs one output")
        try:
            result = await self._run_code(
                language,
                CHECKERS[language],
                {"source": code},
                tenant=tenant,
            )
        except SandboxUnavailableError:
            # Not the fault of the answer, so a second attempt would not help.
            raise
        # Parsers may be crashed by what they read, or take too long.
        except SandboxError as error:
            raise _InvalidAnswer(f"The program cannot be parsed: {error}") from error
        check = msgspec.convert(result, CodeCheck, strict=False)
        _compare(check, {variable.name for variable in inputs}, outputs)
        return GeneratedCode(
            language=language,
            code=code,
            inputs=inputs,
            outputs=outputs,
        )


def _request_text(instruction: str, current: str) -> str:
    """Return the user message: JSON, so that no text can end it. Raises
    InvokeBadRequestError."""
    for name, text in (("instruction", instruction), ("current", current)):
        if len(text) > _MAX_INSTRUCTION:
            raise InvokeBadRequestError(
                f"{name!r} must have at most {_MAX_INSTRUCTION:,} characters",
                param=name,
            )
    if not instruction.strip():
        raise InvokeBadRequestError("'instruction' is required", param="instruction")
    request = {"instruction": instruction}
    if current.strip():
        request["current"] = current
    return json.dumps(request, ensure_ascii=False)


async def _read_object(text: str) -> dict[str, Any]:
    """Return the JSON object of an answer. Raises _InvalidAnswer."""
    try:
        value, _ = await run_in_thread(parsed_json, text)
    except StructuredOutputError as error:
        raise _InvalidAnswer(f"It is not JSON: {error}") from error
    if not is_object(value):
        raise _InvalidAnswer("It is not a JSON object")
    return value


async def _read_prompt(text: str) -> GeneratedPrompt:
    """Return the prompt of an answer. Raises _InvalidAnswer."""
    value = await _read_object(text)
    prompt, opening = value.get("prompt"), value.get("opening_statement")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _InvalidAnswer("'prompt' must be a text that is not empty")
    # What apps would not replace is refused, or users would read braces.
    names = [match[1].strip() for match in _BRACES.finditer(prompt)]
    invalid = [name for name in names if not _VARIABLE.fullmatch(name)]
    if invalid:
        raise _InvalidAnswer(
            f"{invalid[0][:60]!r} is not the name of a variable; names have at most 30"
            " letters, digits and underscores, and do not begin with a digit"
        )
    return GeneratedPrompt(
        # Apps know variables without spaces around their names only.
        prompt=_BRACES.sub(lambda match: f"{{{{{match[1].strip()}}}}}", prompt.strip()),
        variables=list(dict.fromkeys(names)),
        opening_statement=opening.strip() if isinstance(opening, str) else "",
    )


async def _read_schema(text: str) -> GeneratedSchema:
    """Return the schema of an answer. Raises _InvalidAnswer."""
    schema = await _read_object(text)
    properties = schema.get("properties")
    if schema.get("type") != "object" or not is_object(properties) or not properties:
        raise _InvalidAnswer(
            "Its 'type' must be \"object\", with at least one of 'properties'"
        )
    try:
        await run_in_thread(compile_schema, schema)
    except SchemaError as error:
        raise _InvalidAnswer(f"It is not a valid JSON schema: {error}") from error
    return GeneratedSchema(schema=schema)


def _code_blocks(text: str) -> tuple[dict[str, Any], str]:
    """Return (the declaration, the code) of an answer. Raises _InvalidAnswer."""
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]
    # By their language and not by their order: models write either one first.
    declarations = [body for language, body in blocks if language == "json"]
    programs = [body for language, body in blocks if language != "json"]
    if not declarations or not programs:
        raise _InvalidAnswer(
            "It must have a code block of JSON with 'inputs' and 'outputs', and a code"
            " block with the program"
        )
    try:
        declaration, _ = parsed_json(declarations[0])
    except StructuredOutputError as error:
        raise _InvalidAnswer(f"The first code block is not JSON: {error}") from error
    if not is_object(declaration):
        raise _InvalidAnswer("The first code block is not a JSON object")
    return declaration, programs[0].strip()


def _variables(declaration: Mapping[str, Any], name: str) -> list[CodeVariable]:
    """Return the declared inputs or outputs. Raises _InvalidAnswer."""
    declared = declaration.get(name)
    if not is_object(declared):
        raise _InvalidAnswer(f"{name!r} must be an object of names and types")
    for variable, type_name in declared.items():
        if not _VARIABLE.fullmatch(variable):
            raise _InvalidAnswer(f"{variable[:60]!r} is not the name of a variable")
        if type_name not in _TYPES:
            raise _InvalidAnswer(
                f"{variable!r} has the type {str(type_name)[:60]!r}; expected one of"
                f" {', '.join(_TYPES)}"
            )
    return [
        CodeVariable(name=variable, type=type_name)
        for variable, type_name in declared.items()
    ]


def _compare(check: CodeCheck, inputs: set[str], outputs: list[CodeVariable]) -> None:
    """Raise _InvalidAnswer if the program has errors, or does not take and return what
    is declared."""
    if check.problem:
        raise _InvalidAnswer(f"The program has an error: {check.problem}")
    # None means that the text does not tell, for example with `**inputs`.
    if check.parameters is not None and set(check.parameters) != inputs:
        raise _InvalidAnswer(
            f"'main' takes {_listed(check.parameters)}, but 'inputs' declares"
            f" {_listed(inputs)}"
        )
    names = {variable.name for variable in outputs}
    if check.results is not None and set(check.results) != names:
        raise _InvalidAnswer(
            f"'main' returns {_listed(check.results)}, but 'outputs' declares"
            f" {_listed(names)}"
        )


def _listed(names: "list[str] | set[str]") -> str:
    """Return names as a text for a message."""
    return ", ".join(sorted(name[:60] for name in names)[:20]) or "nothing"
