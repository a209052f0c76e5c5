"""Runs within an environment that holds LlamaIndex or Haystack alone: `python knowledge_peer.py NAME FOLDER`. The texts
and vectors are those that the folder holds; no model is called. Prints a line of JSON."""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def llama_index(texts, vectors, questions, asked):
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document

    known = dict(zip([*texts, *questions], [*vectors.tolist(), *asked.tolist()]))

    class Known(BaseEmbedding):
        def _get_text_embedding(self, text):
            return known[text]

        def _get_query_embedding(self, query):
            return known[query]

        async def _aget_query_embedding(self, query):
            return known[query]

        def _get_text_embeddings(self, texts):
            return [known[one] for one in texts]

    Settings.embed_model = Known(embed_batch_size=64)
    Settings.llm = None
    documents = [Document(text=one, metadata={}) for one in texts]
    began, spent = time.perf_counter(), time.process_time()
    index = VectorStoreIndex.from_documents(
        documents, transformations=[SentenceSplitter(chunk_size=1024, chunk_overlap=0)]
    )
    indexed = (time.perf_counter() - began, time.process_time() - spent)
    retriever = index.as_retriever(similarity_top_k=10)
    return indexed, {"dense": lambda one: retriever.retrieve(one)}


def haystack(texts, vectors, questions, asked):
    from haystack import Document
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack.document_stores.types import DuplicatePolicy

    known = dict(zip(texts, vectors.tolist()))
    asked_for = dict(zip(questions, asked.tolist()))
    documents = [Document(content=one) for one in texts]
    began, spent = time.perf_counter(), time.process_time()
    splitter = DocumentSplitter(split_by="word", split_length=400)
    parts = splitter.run(documents)["documents"]
    for one in parts:
        one.embedding = known.get(one.content) or known[one.content.strip()]
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(parts, policy=DuplicatePolicy.OVERWRITE)
    indexed = (time.perf_counter() - began, time.process_time() - spent)
    dense, words = InMemoryEmbeddingRetriever(store, top_k=10), InMemoryBM25Retriever(store, top_k=10)
    return indexed, {
        "dense": lambda one: dense.run(query_embedding=asked_for[one])["documents"],
        "words": lambda one: words.run(query=one)["documents"],
    }


def main():
    name, folder, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    told = json.loads((folder / "texts.json").read_text("utf-8"))
    vectors, asked = np.load(folder / "vectors.npy"), np.load(folder / "asked.npy")
    indexed, ways = {"llama-index": llama_index, "haystack": haystack}[name](
        told["texts"], vectors, told["questions"], asked
    )
    seen = {"index_s": round(indexed[0], 3), "index_cpu_s": round(indexed[1], 3)}
    for way, ask in ways.items():
        ask(told["questions"][0])
        times = []
        for one in told["questions"][:most]:
            began = time.perf_counter()
            ask(one)
            times.append((time.perf_counter() - began) * 1000)
        seen[f"{way}_ms"] = round(sorted(times)[len(times) // 2], 2)
    seen["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(seen))


main()
