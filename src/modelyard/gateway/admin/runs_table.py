"""Route table of workflow runs, of the generators of an app's parts, and of dataset
evaluations."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs
from modelyard.gateway.admin.evaluations import DatasetEvaluations
from modelyard.gateway.admin.generators import GeneratorRoutes
from modelyard.gateway.admin.rows import row
from modelyard.gateway.admin.runs import RunCalls
from modelyard.gateway.admin.shapes import ActionResult, Removed
from modelyard.gateway.table import (
    DEVELOPER,
    EDITOR,
    EVENTS,
    Listed,
    Query,
    Row,
)

_RUN, _EVALUATIONS = "/runs/{id}", "/evaluations/{id}"


def run_rows(runs: RunCalls) -> Iterator[Row]:
    """Yield the routes of single runs."""
    yield row(
        "GET",
        _RUN,
        EDITOR,
        runs.get_run,
        "Get a run.",
        app_shapes.RunDetails,
    )
    yield row(
        "GET",
        f"{_RUN}/events",
        EDITOR,
        runs.events,
        "Stream a run's events, past ones first.",
        EVENTS,
        query=(Query("after", "Number of the last received event.", "integer"),),
    )
    yield row(
        "POST",
        f"{_RUN}/stop",
        EDITOR,
        runs.stop,
        "Stop a run.",
        ActionResult,
    )
    yield row(
        "POST",
        f"{_RUN}/pause",
        EDITOR,
        runs.pause,
        "Pause a run.",
        ActionResult,
    )
    yield row(
        "POST",
        f"{_RUN}/resume",
        EDITOR,
        runs.resume,
        "Resume a paused run.",
        ActionResult,
    )


def generator_rows(generators: GeneratorRoutes) -> Iterator[Row]:
    """Yield the routes that have a model write prompts, programs and schemas."""
    yield row(
        "POST",
        "/generate/prompt",
        EDITOR,
        generators.prompt,
        "Generate a prompt from an instruction; nothing is stored.",
        app_shapes.GeneratedPromptView,
        request_body=inputs.GenerationInput,
        changes_nothing=True,
    )
    yield row(
        "POST",
        "/generate/code",
        EDITOR,
        generators.code,
        "Generate a program for a code node; it is parsed and not run.",
        app_shapes.GeneratedCodeView,
        request_body=inputs.CodeGenerationInput,
        changes_nothing=True,
    )
    yield row(
        "POST",
        "/generate/schema",
        EDITOR,
        generators.schema,
        "Generate a JSON schema for structured output.",
        app_shapes.GeneratedSchemaView,
        request_body=inputs.GenerationInput,
        changes_nothing=True,
    )


def evaluation_rows(evaluations: DatasetEvaluations) -> Iterator[Row]:
    """Yield the routes of dataset evaluations."""
    path, evaluation_view = f"{_EVALUATIONS}/{{evaluation}}", app_shapes.EvaluationView
    yield row(
        "GET",
        _EVALUATIONS,
        DEVELOPER,
        evaluations.listed,
        "List a dataset's evaluations, newest first.",
        Listed(evaluation_view),
    )
    yield row(
        "POST",
        _EVALUATIONS,
        DEVELOPER,
        evaluations.run,
        "Evaluate retrieval with labelled questions; streams the progress.",
        EVENTS,
        request_body=inputs.EvaluationInput,
    )
    yield row(
        "POST",
        f"{_EVALUATIONS}/questions",
        DEVELOPER,
        evaluations.write_questions,
        "Generate questions with a model, one per document.",
        Listed(app_shapes.QuestionView),
        request_body=inputs.WritingInput,
        changes_nothing=True,
    )
    yield row(
        "GET",
        path,
        DEVELOPER,
        evaluations.get_evaluation,
        "Get an evaluation with the result of each question.",
        evaluation_view,
    )
    yield row(
        "DELETE", path, DEVELOPER, evaluations.remove, "Remove an evaluation.", Removed
    )
