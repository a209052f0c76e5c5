"""Indexing and search of documents, beside LlamaIndex, Haystack and NumPy in the same run."""

from typing import Any

from bench import knowledge

from tools.show.proof import Proof
from tools.show.retrieval import data_folder


def prove() -> Proof:
    proof = Proof()
    seen = knowledge.measure(data_folder())
    for size, by in seen.items():
        ours, peers = by["modelyard"], {name: by[name] for name in ("llama-index", "haystack")}
        known = {name: one for name, one in peers.items() if isinstance(one, dict)}
        for name, one in peers.items():
            if isinstance(one, str):
                proof.line(f"{name}, {int(size):,}", one)
        _size(proof, int(size), ours, known)
    proof.figures |= seen
    return proof


def _size(proof: Proof, size: int, ours: dict[str, Any], peers: dict[str, dict[str, Any]]) -> None:
    def beside(name: str, unit: str = "ms") -> str:
        return "".join(f"; {peer} {one[name]:,.1f} {unit}" for peer, one in peers.items() if name in one)

    of = f"{size:,} segments"
    rate = size / ours["index_cpu_s"]
    fastest = min((one["index_cpu_s"] for one in peers.values()), default=0.0)
    proof.line(
        f"{of}: indexed, without the embedding", f"{rate:,.0f} documents a CPU second, {size / ours['index_s']:,.0f} a second"
        + "".join(f"; {peer} {size / one['index_cpu_s']:,.0f}, {size / one['index_s']:,.0f}" for peer, one in peers.items()),
    )  # fmt: skip
    proof.line(
        f"{of}: twice the faster of the two", f"{fastest / ours['index_cpu_s']:.1f} times, by CPU seconds",
        not fastest or fastest / ours["index_cpu_s"] >= 2,
    )  # fmt: skip
    proof.line(
        f"{of}: read into memory",
        f"{ours['load_s']:.2f} s; graph {ours['graph_s']:.1f} s beside ({ours['graph_cpu_s']:.1f} CPU)",
    )
    proof.line(f"{of}: recall@10 beside exact", f"{ours['recall_10']}", ours["recall_10"] >= 0.98)
    exact = f"; NumPy exact {ours['numpy_exact_ms']:.2f} ms"
    small = size <= 5_000
    proof.line(
        f"{of}: semantic, p50 and p95", f"{ours['semantic_ms']:.2f}, {ours['semantic_95_ms']:.2f} ms{exact}{beside('dense_ms')}",
        small or ours["semantic_ms"] <= 1.0,
    )  # fmt: skip
    proof.line(f"{of}: words", f"{ours['words_ms']:.2f} ms{beside('words_ms')}")
    proof.line(
        f"{of}: hybrid, p50 and p95", f"{ours['hybrid_ms']:.2f}, {ours['hybrid_95_ms']:.2f} ms",
        small or ours["hybrid_ms"] <= 3.0,
    )  # fmt: skip
    proof.line(f"{of}: semantic with a filter of 1 %", f"{ours['filtered_ms']:.2f} ms")
    proof.line(
        f"{of}: hybrid, the whole way", f"{ours['whole_hybrid_ms']:.2f}, {ours['whole_hybrid_95_ms']:.2f} ms; semantic "
        f"{ours['whole_semantic_ms']:.2f}, with a metadata filter {ours['whole_filtered_ms']:.2f} ms",
        not small or ours["whole_hybrid_ms"] <= 5.0,
    )  # fmt: skip
    proof.line(f"{of}: to the first citation", f"{ours['first_citation_ms']:.2f} ms beside the question's vector")
    proof.line(f"{of}: memory, disk", f"{ours['rss_mb']} MB, {ours['disk_mb']} MB{beside('rss_mb', 'MB')}")
