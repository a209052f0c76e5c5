"""The stored records of datasets and their settings. Settings use the names and values
of Dify's files and API."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

from modelyard.knowledge.access import DefaultAccess

MAX_CONDITIONS = 200
"""Maximum number of metadata conditions in one search."""
MAX_KEYWORDS = 1000
"""Maximum number of keywords of one segment."""
MAX_TOP_K = 1000


class Technique(StrEnum):
    """How a dataset is indexed."""

    HIGH_QUALITY = "high_quality"
    """Vectors of an embedding model in addition to full-text terms."""
    ECONOMY = "economy"
    """Full-text terms only: no model is called."""


class SearchMethod(StrEnum):
    """How a dataset is searched."""

    SEMANTIC = "semantic_search"
    FULL_TEXT = "full_text_search"
    HYBRID = "hybrid_search"
    KEYWORD = "keyword_search"


class DocForm(StrEnum):
    """The structure of a document's segments."""

    TEXT = "text_model"
    HIERARCHICAL = "hierarchical_model"
    """Children are searched, and their parent segments are returned."""
    QA = "qa_model"
    """Questions are searched, and returned with their answers."""


class Status(StrEnum):
    """The indexing state of a document."""

    WAITING = "waiting"
    PARSING = "parsing"
    CLEANING = "cleaning"
    SPLITTING = "splitting"
    INDEXING = "indexing"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"


class PreProcessingRule(msgspec.Struct, frozen=True, kw_only=True):
    """A named cleaning rule and whether it applies."""

    id: str
    enabled: bool = True


class Segmentation(msgspec.Struct, frozen=True, kw_only=True):
    """How a text is split into segments."""

    separator: str = "\n"
    r"""The separator; may contain escape sequences, as `\n\n`."""
    max_tokens: int = 500
    """Maximum size of a segment, in `unit`."""
    chunk_overlap: int = 0
    unit: Literal["characters", "tokens"] = "characters"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The cleaning and splitting rules of documents."""

    pre_processing_rules: list[PreProcessingRule] = []
    segmentation: Segmentation = Segmentation()
    parent_mode: Literal["paragraph", "full-doc"] = "paragraph"
    subchunk_segmentation: Segmentation = Segmentation(max_tokens=200)
    heading_context: bool = False
    """Add the headings above a segment to its searched text."""

    @property
    def removes_extra_spaces(self) -> bool:
        """Whether repeated blanks and empty lines are reduced."""
        return self._is_on("remove_extra_spaces")

    @property
    def removes_urls_emails(self) -> bool:
        """Whether URLs and email addresses are removed."""
        return self._is_on("remove_urls_emails")

    def _is_on(self, name: str) -> bool:
        return any(
            rule.id == name and rule.enabled for rule in self.pre_processing_rules
        )


_ALL_PRE_PROCESSING_RULES = [
    PreProcessingRule(id="remove_extra_spaces"),
    PreProcessingRule(id="remove_urls_emails"),
]
AUTOMATIC = Rules(
    pre_processing_rules=_ALL_PRE_PROCESSING_RULES,
    segmentation=Segmentation(max_tokens=500, chunk_overlap=50),
)


class ProcessRule(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are split. `structure` is an extension of Dify's modes: it splits
    at headings, code and tables into segments of 2,000 characters with children of 600.
    `automatic` splits likewise, after cleaning by Dify's default rules.
    """

    mode: Literal["automatic", "custom", "hierarchical", "structure"] = "structure"
    rules: Rules | None = None

    @property
    def effective(self) -> Rules:
        """The rules that apply: the default ones in automatic mode, otherwise the
        configured ones."""
        return AUTOMATIC if self.mode == "automatic" else (self.rules or Rules())


class RerankingModel(msgspec.Struct, frozen=True, kw_only=True):
    """A rerank model by provider and name."""

    reranking_provider_name: str = ""
    reranking_model_name: str = ""


class VectorSetting(msgspec.Struct, frozen=True, kw_only=True):
    """The weight of the vector search, and its embedding model."""

    # Dify's default for its own setting. Without the setting both searches count the
    # same.
    vector_weight: float = 0.7
    embedding_provider_name: str = ""
    embedding_model_name: str = ""


class KeywordSetting(msgspec.Struct, frozen=True, kw_only=True):
    """The weight of the full-text search."""

    keyword_weight: float = 0.3


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The weights of a hybrid search's legs."""

    weight_type: str = "customized"
    vector_setting: VectorSetting = VectorSetting()
    keyword_setting: KeywordSetting = KeywordSetting()

    @property
    def shares(self) -> tuple[float, float]:
        """The weights of the vector and the full-text search, normalised to a sum of 1."""
        vector = max(0.0, self.vector_setting.vector_weight)
        keyword = max(0.0, self.keyword_setting.keyword_weight)
        total = vector + keyword
        # Weights of zero on both sides mean equal shares.
        return (vector / total, keyword / total) if total else (0.5, 0.5)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on one metadata field."""

    name: str
    comparison_operator: str
    value: Any = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata conditions, joined by `and` or `or`."""

    logical_operator: Literal["and", "or"] = "and"
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=MAX_CONDITIONS)] = []


class RetrievalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset is searched and how its hits are ranked."""

    search_method: SearchMethod = SearchMethod.HYBRID
    top_k: int = 4
    score_threshold_enabled: bool = False
    score_threshold: float | None = None
    reranking_enable: bool = False
    reranking_mode: Literal["reranking_model", "weighted_score"] | None = None
    reranking_model: RerankingModel | None = None
    weights: Weights | None = None
    metadata_filtering_conditions: Conditions | None = None
    fusion: Literal["adaptive", "weights", "ranks"] = "adaptive"
    """How a hybrid search combines its legs: by how far each leg separates its hits, by
    weighted scores, or by reciprocal rank fusion. With `weights`, adaptive means by
    these weights."""
    mmr: float | None = None
    """Maximal marginal relevance, 0 to 1: the weight of relevance against dissimilarity
    to the hits already selected."""
    recency_days: float | None = None
    """Half-life in days: a segment's score is halved for a document of this age."""
    candidates: int = 100
    """Number of hits that each leg of a search returns."""
    rerank_candidates: int = 50

    @property
    def effective_fusion(self) -> Literal["adaptive", "weights", "ranks"]:
        """How the legs are combined, considering `weights`."""
        # Whoever sets weights expects them to apply.
        if self.fusion == "adaptive" and self.weights is not None:
            return "weights"
        return self.fusion

    @property
    def threshold(self) -> float:
        """The minimum score of a hit; 0 if no threshold is enabled."""
        return (self.score_threshold or 0.0) if self.score_threshold_enabled else 0.0

    @property
    def reranker(self) -> str | None:
        """The rerank model's name; `default-rerank` if none is configured, None if
        reranking is disabled."""
        if not self.reranking_enable or self.reranking_mode == "weighted_score":
            return None
        model = self.reranking_model
        if model is None or not model.reranking_model_name:
            return "default-rerank"
        provider = model.reranking_provider_name
        return (
            f"{provider}/{model.reranking_model_name}"
            if provider
            else model.reranking_model_name
        )


class SummaryIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for searchable summaries of segments."""

    enable: bool = False
    model_name: str = ""
    model_provider_name: str = ""
    summary_prompt: str = ""


class ExternalRetrieval(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for searching an external knowledge API."""

    top_k: int = 4
    score_threshold: float = 0.0
    score_threshold_enabled: bool = False


class MetadataField(msgspec.Struct, frozen=True, kw_only=True):
    """A metadata field that the dataset's documents may have."""

    id: str
    name: str
    type: Literal["string", "number", "time"] = "string"


class DatasetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a dataset."""

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
    """The vector store of the dataset's index; empty for the configured default."""
    pipeline: str = ""
    """The id of the pipeline app that processes the dataset's documents; empty for
    none."""
    default_access: DefaultAccess = "everyone"
    """Who may read documents without an access list: everyone in the tenant or nobody."""

    @property
    def embedding(self) -> str:
        """The embedding model's name, as `provider/model`; `default-text-embedding` if
        none is configured."""
        if not self.embedding_model:
            return "default-text-embedding"
        provider = self.embedding_model_provider
        return (
            f"{provider}/{self.embedding_model}" if provider else self.embedding_model
        )

    @property
    def uses_vectors(self) -> bool:
        """Whether the dataset's entries are embedded."""
        return self.indexing_technique is Technique.HIGH_QUALITY


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset of a tenant, with the state of its index."""

    tenant: str
    id: str
    name: str
    description: str = ""
    settings: DatasetSettings = DatasetSettings()
    created_by: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    generation: int = 0
    """Incremented with every change of the index."""
    space: int = 0
    """The number of the index in use; an index for another model is built under the
    next number."""
    dimensions: int = 0
    model: str = ""
    """The embedding model that produced the first vector, as `provider/model`; empty
    before that."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document of a dataset, with its indexing state."""

    tenant: str
    dataset: str
    id: str
    position: int = 0
    name: str = ""
    batch: str = ""
    source: dict[str, Any] = {}
    """The origin: `kind` (text, file, url, …) and the fields which that kind needs."""
    form: DocForm = DocForm.TEXT
    language: str = ""
    rule: ProcessRule = ProcessRule(mode="structure")
    status: Status = Status.WAITING
    error: str = ""
    is_enabled: bool = True
    is_archived: bool = False
    metadata: dict[str, Any] = {}
    readers: list[str] = []
    """The principals that may receive its segments (see `access`); empty if it has no
    access list, so that the dataset's default applies."""
    words: int = 0
    tokens: int = 0
    segments: int = 0
    done: int = 0
    """Number of segments that are already searchable while the document is indexed."""
    hits: int = 0
    digest: str = ""
    times: dict[str, float] = {}
    """End time of each indexing stage, by stage."""
    command: str = ""
    created_by: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    api_key: str = ""
    """The id of the API key that added the document; embedding calls are made on its
    behalf."""

    @property
    def is_available(self) -> bool:
        """Whether the document's segments can be found."""
        return (
            self.status is Status.COMPLETED and self.is_enabled and not self.is_archived
        )


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of a document: the unit that a search returns."""

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
    """Page number from 1; 0 if the format has no pages."""
    start: int = 0
    stop: int = 0
    """End of the segment, in characters of the document's text."""
    words: int = 0
    tokens: int = 0
    digest: str = ""
    is_enabled: bool = True
    hits: int = 0
    error: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a segment that is searched in its place."""

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
    """A child segment that matched a search."""

    id: str
    content: str
    position: int
    score: float


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A segment returned by a search. `score` is 0 to 1; docs/reference/retrieval.md
    explains it."""

    segment: Segment
    document: Document
    dataset: Dataset
    score: float
    scores: dict[str, float] = {}
    """Scores of the search stages: semantic, full_text, fused, rerank."""
    children: list[ChildHit] = []
    title: str = ""
    """The title of a hit from an external API, which has no document."""
    entry: int = 0
    """The id of the index entry that matched best."""

    @property
    def text(self) -> str:
        """The text that is given to a model: the content, or question and answer."""
        segment = self.segment
        return (
            # Written as in Dify, blank included, since it becomes part of prompts.
            f"question:{segment.content} \nanswer:{segment.answer}"
            if segment.answer
            else segment.content
        )
