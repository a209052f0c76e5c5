"""Questions on a folder of documents in several formats, with the local models: cited sources hold the answer, what is
not there is said not to be, and the fact check finds planted falsehoods."""

import asyncio
import re
import tempfile
import time
from pathlib import Path

import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from modelyard.knowledge import facts
from modelyard.knowledge.entities import DatasetSettings, RetrievalSettings
from modelyard.knowledge.retrieve import Asking
from tools.show.proof import ROOT, Proof, weights_folder

FOLDER = ROOT / "examples" / "knowledge"
QUESTIONS = (
    ("How many days do I have to send goods back?", r"within 30 days"),
    ("Who pays for the label when the goods were faulty?", r"we pay for it when the goods\s+were faulty"),
    ("What does the customer pay for a return label when nothing was faulty?", r"4\.90 euros"),
    ("How fast are refunds paid?", r"within 7 working days"),
    ("In which city is the warehouse?", r"Utrecht"),
    ("How are gift cards refunded?", r"refunded as gift cards"),
    ("When does the new order of an exchange leave?", r"scanned the parcel"),
    ("How long is the warranty of a lamp?", r"warranty of five years"),
    ("How long is the warranty of the battery?", r"one of two years"),
    ("Where is the serial number of a lamp?", r"below the foot"),
    ("How long do repairs take?", r"about ten days"),
    ("Until when must I order so that my parcel leaves on the same day?", r"before noon"),
    ("Do you ship to Norway?", r"to Norway"),
    ("From which order value on is shipping free?", r"more than 150 euros"),
    ("What does gift wrapping cost?", r"for 2 euros"),
    ("How many characters may a gift card's handwritten card have?", r"200 characters"),
    ("What is the price of the model Lynx in euros?", r"Lynx.*179"),
    ("How many battery hours does the Polecat have?", r"Polecat.*40"),
    ("What does the eighth amendment say about bail?", r"Excessive bail"),
    ("From which value in dollars on is there a right of trial by jury?", r"twenty dollars"),
)
UNANSWERABLE = (
    "What is the name of the shop's founder?", "How many employees work in the warehouse?",
    "Which paint is used for the Heron?", "What is the boiling point of ethanol?", "Who won the football world cup in 1998?",
)  # fmt: skip
TRUE = (
    "Goods can be sent back within 30 days of delivery.", "Refunds go to the account that the order was paid from.",
    "The warranty begins on the day of delivery.", "We do not ship to post office boxes.",
    "Orders of more than 150 euros are shipped for free.", "Every lamp has a warranty of five years.",
    "Repairs take about ten days.", "Gifts are wrapped in blue paper for 2 euros.",
    "Parcels leave on the same day when they are ordered before noon.", "Excessive bail shall not be required.",
)  # fmt: skip
FALSE = (
    "Goods can be sent back within 60 days of delivery.", "Refunds are paid in cash at the counter.",
    "The warranty begins on the day of the order's anniversary in spring.", "We ship to post office boxes.",
    "Orders of more than 50 euros are shipped for free.", "Every lamp has a warranty of nine years.",
    "Repairs take about three weeks.", "Gifts are wrapped in red velvet for 2 euros.",
    "Parcels never leave on the same day when they are ordered before noon.", "Excessive bail shall always be required.",
)  # fmt: skip


def folder_of(place: Path) -> None:
    """The example's documents, two of them as Word and PDF."""
    import docx
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    for name in ("shipping.html", "lamps.csv", "bill-of-rights.txt"):
        (place / name).write_bytes((FOLDER / name).read_bytes())
    document = docx.Document()
    for block in (FOLDER / "returns.md").read_text("utf-8").split("\n\n"):
        if block.startswith("#"):
            document.add_heading(block.lstrip("# "), block.count("#"))
        else:
            document.add_paragraph(" ".join(block.split()))
    document.save(str(place / "returns.docx"))
    style = getSampleStyleSheet()["Normal"]
    blocks = (FOLDER / "warranty.txt").read_text("utf-8").split("\n\n")
    SimpleDocTemplate(str(place / "warranty.pdf")).build([Paragraph(" ".join(one.split()), style) for one in blocks])


async def _asked(proof: Proof, home: Path) -> None:
    settings = load_settings({})
    settings = msgspec.structs.replace(
        settings, home=str(home / "home"), local=msgspec.structs.replace(settings.local, weights=str(weights_folder()))
    )
    folder = home / "documents"
    folder.mkdir()
    folder_of(folder)
    async with Modelyard(settings) as yard:
        knowledge = yard.knowledge
        chosen = DatasetSettings(embedding_model="bge-small-en-v1.5", embedding_model_provider="local")
        dataset = await knowledge.datasets.create("default", "shop", settings=chosen)
        await knowledge.datasets.sync_folder(dataset, folder, batch="all")
        ended = await knowledge.datasets.wait(dataset, "all", 120)
        failed = [f"{one.name}: {one.error}" for one in ended if one.error]
        proof.line("documents", failed or f"{len(ended)}: {', '.join(sorted(one.name for one in ended))}", not failed)
        right = said = placed = 0
        first: list[float] = []
        for question, wanted in QUESTIONS:
            began = time.perf_counter()
            answer = await knowledge.answerer.ask([dataset.id], Asking(tenant="default", query=question))
            holds = [one for one in answer.citations if re.search(wanted, " ".join(one.text.split()))]
            right += bool(holds) and answer.is_found
            said += bool(re.search(wanted, answer.text)) or any(one.is_supported for one in answer.claims)
            placed += await _is_there(yard, dataset.tenant, dataset.id, holds)
            first.append(answer.milliseconds.get("first_citation", 0.0))
            cited = ", ".join(f"{one.document_name}{f' p. {one.page}' if one.page else ''}" for one in answer.citations)
            proof.line(
                question, f"{' '.join(answer.text.split())[:70]} ({cited}; {time.perf_counter() - began:.1f} s)",
                bool(holds) and answer.is_found,
            )  # fmt: skip
        proof.line("cited sources that hold the answer", f"{right} of {len(QUESTIONS)}", right == len(QUESTIONS))
        proof.line("of those, at the very characters that the citation names", placed, placed == right)
        proof.line("answers that their sources support", f"{said} of {len(QUESTIONS)}")
        refused = 0
        for question in UNANSWERABLE:
            answer = await knowledge.answerer.ask([dataset.id], Asking(tenant="default", query=question))
            refused += not answer.is_found
            proof.line(question, answer.text[:90], not answer.is_found)
        await _checked(proof, yard, dataset.id)
        first.sort()
        proof.figures.update(cited=right, supported=said, refused=refused, first_citation_ms=first[len(first) // 2])


async def _is_there(yard: Modelyard, tenant: str, dataset: str, citations: list[object]) -> bool:
    """Whether a citation's characters of its document are what it shows."""
    for one in citations:
        document = await yard.knowledge.stored.documents.get(tenant, dataset, one.document)  # type: ignore[attr-defined]
        text = await yard.knowledge.datasets.text(document)
        shown = text[one.start : one.stop]  # type: ignore[attr-defined]
        if one.text.strip().endswith(shown.strip()[-40:]) and shown.strip():  # type: ignore[attr-defined]
            return True
    return False


async def _checked(proof: Proof, yard: Modelyard, dataset: str) -> None:
    """True and false sentences, each beside what is found for it."""
    found, kept = 0, 0
    plain = RetrievalSettings(top_k=5)
    for sentence, is_true in [(one, True) for one in TRUE] + [(one, False) for one in FALSE]:
        hits = await yard.knowledge.datasets.search("default", [dataset], sentence, settings=plain)
        (claim,) = facts.check(sentence, [one.text for one in hits.hits])
        found += not is_true and not claim.is_supported
        kept += is_true and claim.is_supported
        if claim.is_supported is not is_true:
            proof.line(
                f"{'true' if is_true else 'false'}: {sentence}",
                f"{claim.score} {claim.reason} {claim.quote[:60]}",
                ok=not is_true and None,
            )
    proof.line("planted falsehoods found", f"{found} of {len(FALSE)}", found == len(FALSE))
    proof.line("true sentences let stand", f"{kept} of {len(TRUE)}", kept >= len(TRUE) - 1)
    proof.figures.update(falsehoods=found, truths=kept)


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_asked(proof, Path(folder)))
    return proof
