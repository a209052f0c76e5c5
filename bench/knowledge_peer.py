"""Measure LlamaIndex or Haystack and print one line of JSON.

python knowledge_peer.py NAME FOLDER MAX_QUERIES

Runs in an environment with only that peer installed. The folder holds the texts and
vectors; no model is called.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def llama_index(texts, vectors, questions, query_vectors):
    """Index the texts with LlamaIndex; return ((seconds, CPU seconds), search functions
    by mode)."""
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document

    vector_by_text = dict(
        zip([*texts, *questions], [*vectors.tolist(), *query_vectors.tolist()])
    )

    class PrecomputedEmbedding(BaseEmbedding):
        """LlamaIndex's embedding interface over the precomputed vectors."""

        def _get_text_embedding(self, text):
            return vector_by_text[text]

        def _get_query_embedding(self, query):
            return vector_by_text[query]

        async def _aget_query_embedding(self, query):
            return vector_by_text[query]

        def _get_text_embeddings(self, texts):
            return [vector_by_text[text] for text in texts]

    Settings.embed_model = PrecomputedEmbedding(embed_batch_size=64)
    Settings.llm = None
    documents = [Document(text=text, metadata={}) for text in texts]
    started_at, spent = time.perf_counter(), time.process_time()
    # A chunk size above any text's length: each text stays one segment, as on the other
    # sides.
    index = VectorStoreIndex.from_documents(
        documents, transformations=[SentenceSplitter(chunk_size=1024, chunk_overlap=0)]
    )
    indexed = (time.perf_counter() - started_at, time.process_time() - spent)
    retriever = index.as_retriever(similarity_top_k=10)
    return indexed, {"dense": lambda question: retriever.retrieve(question)}


def haystack(texts, vectors, questions, query_vectors):
    """Index the texts with Haystack; return ((seconds, CPU seconds), search functions
    by mode)."""
    from haystack import Document
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.retrievers.in_memory import (
        InMemoryBM25Retriever,
        InMemoryEmbeddingRetriever,
    )
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack.document_stores.types import DuplicatePolicy

    vector_by_text = dict(zip(texts, vectors.tolist()))
    vector_by_question = dict(zip(questions, query_vectors.tolist()))
    documents = [Document(content=text) for text in texts]
    started_at, spent = time.perf_counter(), time.process_time()
    splitter = DocumentSplitter(split_by="word", split_length=400)
    parts = splitter.run(documents)["documents"]
    for segment in parts:
        # Haystack's splitter may keep surrounding white space, which the lookup table
        # does not have.
        segment.embedding = (
            vector_by_text.get(segment.content)
            or vector_by_text[segment.content.strip()]
        )
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(parts, policy=DuplicatePolicy.OVERWRITE)
    indexed = (time.perf_counter() - started_at, time.process_time() - spent)
    # In Haystack, dense and keyword search are separate retrievers over the same store.
    dense, keyword_retriever = (
        InMemoryEmbeddingRetriever(store, top_k=10),
        InMemoryBM25Retriever(store, top_k=10),
    )
    return indexed, {
        "dense": lambda question: dense.run(
            query_embedding=vector_by_question[question]
        )["documents"],
        "words": lambda question: keyword_retriever.run(query=question)["documents"],
    }


def main():
    """Run the peer named in the arguments and print its times and memory."""
    name, folder, max_queries = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    dataset_texts = json.loads((folder / "texts.json").read_text("utf-8"))
    vectors, query_vectors = (
        np.load(folder / "vectors.npy"),
        np.load(folder / "asked.npy"),
    )
    indexed, search_by_mode = {"llama-index": llama_index, "haystack": haystack}[name](
        dataset_texts["texts"], vectors, dataset_texts["questions"], query_vectors
    )
    figures = {"index_s": round(indexed[0], 3), "index_cpu_s": round(indexed[1], 3)}
    for mode, ask in search_by_mode.items():
        # The first query builds caches; it is not part of the measurement.
        ask(dataset_texts["questions"][0])
        times = []
        for question in dataset_texts["questions"][:max_queries]:
            started_at = time.perf_counter()
            ask(question)
            times.append((time.perf_counter() - started_at) * 1000)
        figures[f"{mode}_ms"] = round(sorted(times)[len(times) // 2], 2)
    # On Linux, ru_maxrss is in kilobytes.
    figures["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))


main()
