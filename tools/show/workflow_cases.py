"""Reported faults of workflow products, and others of their kinds, as tests: runs that
never end, text that is rendered twice, files that nobody checks, answers that are shown
twice."""

from tools.show.proof import Proof, tests


def prove() -> Proof:
    """Run the tests and report one line for each kind of fault."""
    proof = Proof()
    for label, names in (
        ("a run always ends", ("run_ends", "storable")),
        ("what comes from outside is data", ("outside_text",)),
        ("the shown text is the answer", ("void_text", "output_guard")),
        ("files: restrictions, names, types, encodings", ("files", "encodings")),
        ("code results and JavaScript", ("code_results",)),
        ("structured output is mended", ("structured_output",)),
        ("schedules, imports, tool parameters", ("schedule", "imports", "agent_tools")),
    ):
        summary, ok = tests(*(f"tests/workflow/test_{name}.py" for name in names))
        proof.line(label, summary, ok)
        proof.figures[label] = summary
    summary, ok = tests("tests/gateway/test_workflow_cases.py")
    proof.line("over HTTP, with scripted servers", summary, ok)
    proof.figures["over HTTP"] = summary
    return proof
