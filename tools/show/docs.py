"""The documentation: every code block is run, and every claim in the list of claims is
checked."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.docs.claims import Claim, claims, not_claims, uncovered
from tests.docs.pages import PAGES, Block, blocks_of
from tests.docs.rules import NOT_RUN, rule_of, uncovered_blocks

from tools.show.proof import Proof, tests

_LAWS = "tests/docs"


def prove() -> Proof:
    """Run the tests of the pages, all tests that run a code block, and all tests that
    claims name; report blocks and claims by page."""
    proof = Proof()
    for page in PAGES:
        _report_blocks(proof, page)
    for page in PAGES:
        _report_claims(proof, page)
    _report_commands(proof)
    _check_coverage(proof)
    _run(proof, "the laws of the pages", [_LAWS])
    node_ids = sorted(_tests_of_blocks() | _tests_of_claims())
    _run(proof, f"{len(node_ids)} tests that blocks and claims name", node_ids)
    return proof


def _report_blocks(proof: Proof, page: str) -> None:
    """Report how the code blocks of a page are run."""
    counts = Counter(_method(block) for block in blocks_of(page))
    for method, count in counts.items():
        proof.line(f"{page}: {count} blocks", method)


def _method(block: Block) -> str:
    """Return the kind of a block, how it is run, and by what."""
    rule = rule_of(block)
    by = rule.test.partition("::")[2].replace("_", " ") or "nothing"
    return f"{block.language}, {rule.summary} ({by})"


def _report_claims(proof: Proof, page: str) -> None:
    """Report how many claims of a page are checked by tests, proofs and contracts."""
    listed = [claim for claim in claims() if claim.page == page]
    kinds = Counter(_kind(check) for claim in listed for check in claim.checked_by)
    checks = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    reasons = Counter(not_claims().get(page, {}).values())
    excluded = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    proof.line(
        f"{page}: {len(listed)} claims",
        f"{checks or 'none'}; not claims: {excluded or 'none'}",
    )


def _kind(check: str) -> str:
    """Return the kind of a check, in the plural."""
    kind = check.partition(":")[0]
    return {"show": "proofs", "contract": "contracts"}.get(kind, "tests")


def _report_commands(proof: Proof) -> None:
    """Report which commands are only held to the command line, and why."""
    for beginning, reason in NOT_RUN.items():
        proof.line(f"not run: {beginning} …", reason)


def _check_coverage(proof: Proof) -> None:
    """Check that each block has a rule and each strong sentence is listed."""
    blocks = uncovered_blocks()
    sentences = [f"{page}: {text}" for page in PAGES for text in uncovered(page)]
    proof.line("blocks that nothing runs", _some(blocks), not blocks)
    proof.line("strong sentences that are not listed", _some(sentences), not sentences)
    proof.figures |= {
        "blocks": sum(len(blocks_of(page)) for page in PAGES),
        "claims": len(claims()),
        "uncovered": len(blocks) + len(sentences),
    }


def _some(problems: Sequence[str]) -> str:
    return f"{len(problems)}{': ' if problems else ''}{'; '.join(problems[:3])}"


def _tests_of_blocks() -> set[str]:
    """Return the tests outside of the laws that run code blocks."""
    rules = [rule_of(block) for page in PAGES for block in blocks_of(page)]
    return {rule.test for rule in rules if _is_elsewhere(rule.test)}


def _tests_of_claims() -> set[str]:
    """Return the tests outside of the laws that check claims."""
    return {check for claim in claims() for check in _tests_named(claim)}


def _tests_named(claim: Claim) -> Iterable[str]:
    return (
        check
        for check in claim.checked_by
        if _kind(check) == "tests" and _is_elsewhere(check)
    )


def _is_elsewhere(test: str) -> bool:
    return bool(test) and not test.startswith(f"{_LAWS}/")


def _run(proof: Proof, label: str, node_ids: Sequence[str]) -> None:
    """Run tests and report their summary."""
    summary, ok = tests(*node_ids)
    proof.line(label, summary, ok)
