"""What is kept, and the settings of it. The names and values of settings are those that Dify's files and API use."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

MOST_CONDITIONS = 200
"""On documents' metadata, of one search."""
MOST_KEYWORDS = 1000
"""Of one segment."""
MOST_TOP_K = 1000


class Technique(StrEnum):
    HIGH_QUALITY = "high_quality"
    """Vectors by an embedding model, and words."""
    ECONOMY = "economy"
    """Words alone: no model is called."""


class SearchMethod(StrEnum):
    SEMANTIC = "semantic_search"
    FULL_TEXT = "full_text_search"
    HYBRID = "hybrid_search"
    KEYWORD = "keyword_search"


class DocForm(StrEnum):
    TEXT = "text_model"
    HIERARCHICAL = "hierarchical_model"
    """Children are searched, their parents are what is given."""
    QA = "qa_model"
    """Questions are searched, and given with their answers."""


class Status(StrEnum):
    """How far a document is."""

    WAITING = "waiting"
    PARSING = "parsing"
    CLEANING = "cleaning"
    SPLITTING = "splitting"
    INDEXING = "indexing"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"


class PreProcessingRule(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    enabled: bool = True


class Segmentation(msgspec.Struct, frozen=True, kw_only=True):
    separator: str = "\n"
    """May hold escape sequences, as `\\n\\n`."""
    max_tokens: int = 500
    """Of `unit`: characters, unless tokens are asked for."""
    chunk_overlap: int = 0
    unit: Literal["characters", "tokens"] = "characters"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    pre_processing_rules: list[PreProcessingRule] = []
    segmentation: Segmentation = Segmentation()
    parent_mode: Literal["paragraph", "full-doc"] = "paragraph"
    subchunk_segmentation: Segmentation = Segmentation(max_tokens=200)
    heading_context: bool = False
    """Put the headings above a segment into what is searched."""

    @property
    def removes_extra_spaces(self) -> bool:
        return self._is_on("remove_extra_spaces")

    @property
    def removes_urls_emails(self) -> bool:
        return self._is_on("remove_urls_emails")

    def _is_on(self, name: str) -> bool:
        return any(one.id == name and one.enabled for one in self.pre_processing_rules)


_BOTH = [PreProcessingRule(id="remove_extra_spaces"), PreProcessingRule(id="remove_urls_emails")]
AUTOMATIC = Rules(pre_processing_rules=_BOTH, segmentation=Segmentation(max_tokens=500, chunk_overlap=50))


class ProcessRule(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are split. `structure` is ours: by headings, code and tables: pieces of 2,000 characters, their
    children of 600."""

    mode: Literal["automatic", "custom", "hierarchical", "structure"] = "automatic"
    rules: Rules | None = None

    @property
    def effective(self) -> Rules:
        return AUTOMATIC if self.mode == "automatic" else (self.rules or Rules())


class RerankingModel(msgspec.Struct, frozen=True, kw_only=True):
    reranking_provider_name: str = ""
    reranking_model_name: str = ""


class VectorSetting(msgspec.Struct, frozen=True, kw_only=True):
    vector_weight: float = 0.7
    embedding_provider_name: str = ""
    embedding_model_name: str = ""


class KeywordSetting(msgspec.Struct, frozen=True, kw_only=True):
    keyword_weight: float = 0.3


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    weight_type: str = "customized"
    vector_setting: VectorSetting = VectorSetting()
    keyword_setting: KeywordSetting = KeywordSetting()

    @property
    def shares(self) -> tuple[float, float]:
        """Of meaning and of words; together 1."""
        vector = max(0.0, self.vector_setting.vector_weight)
        keyword = max(0.0, self.keyword_setting.keyword_weight)
        whole = vector + keyword
        return (vector / whole, keyword / whole) if whole else (0.5, 0.5)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    comparison_operator: str
    value: Any = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    logical_operator: Literal["and", "or"] = "and"
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=MOST_CONDITIONS)] = []


class RetrievalSettings(msgspec.Struct, frozen=True, kw_only=True):
    search_method: SearchMethod = SearchMethod.HYBRID
    top_k: int = 4
    score_threshold_enabled: bool = False
    score_threshold: float | None = None
    reranking_enable: bool = False
    reranking_mode: Literal["reranking_model", "weighted_score"] | None = None
    reranking_model: RerankingModel | None = None
    weights: Weights | None = None
    metadata_filtering_conditions: Conditions | None = None
    fusion: Literal["weights", "ranks"] = "weights"
    """How a hybrid search joins its legs: by the sum of their scores, or by reciprocal ranks."""
    mmr: float | None = None
    """Maximal marginal relevance, 0 to 1: how much relevance counts against being unlike what was taken already."""
    recency_days: float | None = None
    """Half-life: a segment of a document this old counts half as much."""
    candidates: int = 100
    """How many each leg of a search gives."""
    rerank_candidates: int = 50

    @property
    def threshold(self) -> float:
        return (self.score_threshold or 0.0) if self.score_threshold_enabled else 0.0

    @property
    def reranker(self) -> str | None:
        """The rerank model's name; `default-rerank` where none is named; None where none is wanted."""
        if not self.reranking_enable or self.reranking_mode == "weighted_score":
            return None
        named = self.reranking_model
        if named is None or not named.reranking_model_name:
            return "default-rerank"
        provider = named.reranking_provider_name
        return f"{provider}/{named.reranking_model_name}" if provider else named.reranking_model_name


class SummaryIndex(msgspec.Struct, frozen=True, kw_only=True):
    enable: bool = False
    model_name: str = ""
    model_provider_name: str = ""
    summary_prompt: str = ""


class ExternalRetrieval(msgspec.Struct, frozen=True, kw_only=True):
    top_k: int = 4
    score_threshold: float = 0.0
    score_threshold_enabled: bool = False


class MetadataField(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    type: Literal["string", "number", "time"] = "string"


class DatasetSettings(msgspec.Struct, frozen=True, kw_only=True):
    indexing_technique: Technique = Technique.HIGH_QUALITY
    embedding_model: str = ""
    embedding_model_provider: str = ""
    retrieval_model: RetrievalSettings = RetrievalSettings()
    doc_form: DocForm = DocForm.TEXT
    process_rule: ProcessRule = ProcessRule(mode="structure")
    permission: str = "only_me"
    members: list[str] = []
    provider: Literal["vendor", "external"] = "vendor"
    external_knowledge_id: str = ""
    external_knowledge_api_id: str = ""
    external_retrieval_model: ExternalRetrieval = ExternalRetrieval()
    summary_index_setting: SummaryIndex = SummaryIndex()
    fields: list[MetadataField] = []
    built_in_field_enabled: bool = False
    store: str = ""
    """Where its index is; empty for the settings' own."""
    pipeline: str = ""
    """The app whose file says how documents get here."""

    @property
    def embedding(self) -> str:
        if not self.embedding_model:
            return "default-text-embedding"
        provider = self.embedding_model_provider
        return f"{provider}/{self.embedding_model}" if provider else self.embedding_model

    @property
    def uses_vectors(self) -> bool:
        return self.indexing_technique is Technique.HIGH_QUALITY


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    id: str
    name: str
    description: str = ""
    settings: DatasetSettings = DatasetSettings()
    created_by: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    generation: int = 0
    """Goes up with every change of its index."""
    space: int = 0
    """Which of its indexes is the one in use: another model's is built beside it."""
    dimensions: int = 0
    model: str = ""
    """The embedding model as it was found when the first vector came, as `provider/model`."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    dataset: str
    id: str
    position: int = 0
    name: str = ""
    batch: str = ""
    source: dict[str, Any] = {}
    """{kind: text|file|url|…, and what that needs}."""
    form: DocForm = DocForm.TEXT
    language: str = ""
    rule: ProcessRule = ProcessRule(mode="structure")
    status: Status = Status.WAITING
    error: str = ""
    is_enabled: bool = True
    is_archived: bool = False
    metadata: dict[str, Any] = {}
    readers: list[str] = []
    """Who may be given its segments; empty for all."""
    words: int = 0
    tokens: int = 0
    segments: int = 0
    done: int = 0
    """Segments that are ready to be searched, while it is indexed."""
    hits: int = 0
    digest: str = ""
    times: dict[str, float] = {}
    """Stage → when it ended."""
    command: str = ""
    created_by: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    api_key: str = ""
    """The id of the API key that it was added with, on whose behalf models are called to index it."""

    @property
    def is_available(self) -> bool:
        return self.status is Status.COMPLETED and self.is_enabled and not self.is_archived


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    dataset: str
    document: str
    id: str
    position: int = 0
    content: str = ""
    answer: str = ""
    keywords: list[str] = []
    summary: str = ""
    heading: str = ""
    page: int = 0
    """From 1; 0 where the format knows no pages."""
    start: int = 0
    stop: int = 0
    """Characters of the document's text."""
    words: int = 0
    tokens: int = 0
    digest: str = ""
    is_enabled: bool = True
    hits: int = 0
    error: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a segment that is searched in its place."""

    tenant: str
    dataset: str
    document: str
    segment: str
    id: str
    position: int = 0
    content: str = ""
    kind: Literal["automatic", "customized"] = "automatic"
    created_at: float = 0.0
    updated_at: float = 0.0


class ChildHit(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    content: str
    position: int
    score: float


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A segment that was found. `score` is 0 to 1; what it means: docs/reference/retrieval.md."""

    segment: Segment
    document: Document
    dataset: Dataset
    score: float
    scores: dict[str, float] = {}
    """What each stage said: semantic, full_text, fused, rerank."""
    children: list[ChildHit] = []
    title: str = ""
    """Of what another server found, where there is no document."""
    entry: int = 0
    """What of it was found best."""

    @property
    def text(self) -> str:
        """What is given to a model."""
        one = self.segment
        return f"question:{one.content} \nanswer:{one.answer}" if one.answer else one.content
