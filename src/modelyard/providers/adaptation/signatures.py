"""Signatures of thoughts: each goes back to its issuer, and to nobody else.

Elsewhere the thought is left out, or is sent as plain text if the target takes that.
Gemini's signatures of tool calls travel in the ids of the calls, which clients keep.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from modelyard.models.llm import LLMResultChunk
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolPromptMessage,
)
from modelyard.providers.adaptation.blocks import Block, blocks_of, with_blocks
from modelyard.providers.adaptation.draft import Draft, Target
from modelyard.providers.adaptation.signature_tags import (
    Issuer,
    family_code,
    id_with_signature,
    read_tag,
    split_id,
    tag_of,
)
from modelyard.providers.adaptation.thinking import current_turn

SKIP_SIGNATURE = "skip_thought_signature_validator"
"""Google's documented signature of calls whose own is unknown."""
_GEMINI = "gemini"
_CHAT = "openai_chat"
# Targets whose signatures travel in the ids of the calls that follow them.
_CALL_SIGNERS = (_GEMINI, "plugin")
# Providers whose signatures are the vendor's own, and without any other family.
_VENDORS = ("anthropic", "bedrock", "gemini", "vertex_ai", "openai", "azure_openai")
# Formats that take only thoughts that they can check or identify.
_CHECKED = ("anthropic", "bedrock", _GEMINI, "openai_responses")
_NAMES = {
    "anthropic": "thinking",
    "bedrock": "reasoningContent",
    _CHAT: "reasoning_details",
    _GEMINI: "thoughtSignature",
    "openai_responses": "reasoning",
}


def adapt_signatures(draft: Draft) -> None:
    """Keep the signatures that the target issued, and leave out all others."""
    messages = draft.request.messages
    if any(isinstance(message, AssistantPromptMessage) for message in messages):
        adapted = [
            _without_separate_thoughts(_adapted(message, draft), draft)
            for message in messages
        ]
        if adapted != messages:
            draft.change(messages=adapted)
    # This follows the removal, which can leave a call without its signature.
    _sign_open_turn(draft)
    caller = draft.request.format
    # Within one format the vendor's signatures reach the client as they are.
    if caller and caller != draft.target.format:
        restorer = partial(SignatureRestorer, caller, draft.target)
        draft.restorers.append(restorer)


def _adapted(message: AnyPromptMessage, draft: Draft) -> AnyPromptMessage:
    """Return a message with only the target's own signatures, and with plain ids of
    calls."""
    if isinstance(message, ToolPromptMessage):
        # A result must name the same plain id as its call.
        plain_id, _ = split_id(message.tool_call_id)
        if plain_id == message.tool_call_id:
            return message
        return msgspec.structs.replace(message, tool_call_id=plain_id)
    if not isinstance(message, AssistantPromptMessage):
        return message
    old = blocks_of(message)
    new = list(_adapted_blocks(old, draft))
    return message if new == old else with_blocks(message, new)


def _adapted_blocks(blocks: Iterable[Block], draft: Draft) -> Iterator[Block]:
    """Yield the blocks of an answer as the target may get them."""
    # Whether the block before has signed the next one.
    is_signed = False
    for block in blocks:
        adapted: list[Block] = [block]
        if isinstance(block, ToolCall):
            adapted = _adapted_call(block, draft.target, is_signed=is_signed)
        elif isinstance(block, ThinkingPromptMessageContent):
            thought = _carried(block, draft)
            adapted = [] if thought is None else [thought]
        yield from adapted
        last = adapted[-1] if adapted else None
        is_signed = isinstance(last, ThinkingPromptMessageContent) and _is_signature(
            last
        )


def _adapted_call(call: ToolCall, target: Target, *, is_signed: bool) -> list[Block]:
    """Return a call with its plain id, after the signature from the id if the call is
    not signed already."""
    plain_id, signature = split_id(call.id)
    if plain_id == call.id:
        return [call]
    plain = msgspec.structs.replace(call, id=plain_id)
    thought = _own_signature(signature, target)
    return [plain] if thought is None or is_signed else [thought, plain]


def _own_signature(
    signature: str, target: Target
) -> ThinkingPromptMessageContent | None:
    """Return the signature from a call's id as a part, if the target has issued it."""
    issuer, original = read_tag(signature)
    is_own = issuer is not None and _is_issuer(issuer, target)
    if not is_own or target.format not in _CALL_SIGNERS:
        return None
    return ThinkingPromptMessageContent(signature=original, origin=target.format)


def _is_signature(thought: ThinkingPromptMessageContent) -> bool:
    """Whether a part is only the signature of the next block."""
    return bool(thought.signature) and not thought.data and not thought.redacted


def _carried(
    thought: ThinkingPromptMessageContent, draft: Draft
) -> ThinkingPromptMessageContent | None:
    """Return a thought as the target may get it; None if it may not."""
    target = draft.target
    issuer, signature = read_tag(thought.signature)
    redacted = thought.redacted or (issuer is not None and issuer.redacted)
    if _is_own(thought, issuer, draft) and (
        signature or thought.id or _takes_unsigned(target)
    ):
        # Without a mark it is as the vendor's own client has sent it.
        if issuer is None:
            return thought
        return msgspec.structs.replace(
            thought, signature=signature, redacted=redacted, origin=issuer.origin
        )
    return _foreign(thought, signature, draft, redacted=redacted)


def _foreign(
    thought: ThinkingPromptMessageContent,
    signature: str,
    draft: Draft,
    *,
    redacted: bool,
) -> ThinkingPromptMessageContent | None:
    """Return the text of another's thought if the target takes that; None if not."""
    # The placeholder stands for no thought, so nothing is lost with it.
    is_placeholder = signature == SKIP_SIGNATURE
    draft.removes_thoughts = draft.removes_thoughts or not is_placeholder
    if thought.data and not redacted and _takes_texts(draft.target):
        return msgspec.structs.replace(thought, signature="", id="", origin="")
    if not is_placeholder and (signature or thought.data):
        draft.drop(_NAMES.get(draft.request.format, "thinking"))
    return None


def _is_own(
    thought: ThinkingPromptMessageContent, issuer: Issuer | None, draft: Draft
) -> bool:
    """Whether the target itself has issued a thought, as far as that is known."""
    target, caller = draft.target, draft.request.format
    if issuer is not None:
        return _is_issuer(issuer, target)
    # A server of the chat format may stand for several vendors.
    if caller == _CHAT and target.format == _CHAT:
        return True
    origin = thought.origin or caller
    return not origin or _is_valid_at(origin, target.format)


def _is_issuer(issuer: Issuer, target: Target) -> bool:
    """Whether the target accepts a signature with a mark."""
    return _is_valid_at(issuer.format, target.format) and (
        issuer.family == family_code(_family(target))
    )


def _is_valid_at(issuer: str, format: str) -> bool:
    """Whether signatures of one format are accepted in another.

    Claude on Bedrock accepts those of Anthropic's own API.
    """
    return issuer == format or (issuer, format) == ("anthropic", "bedrock")


def _family(target: Target) -> str:
    """Return the name under which models accept each other's signatures."""
    if target.capabilities.signature_family or target.provider in _VENDORS:
        return target.capabilities.signature_family
    return target.provider


def _takes_unsigned(target: Target) -> bool:
    """Whether the target accepts its own thoughts without a signature."""
    if target.format == "bedrock":
        return "claude" not in target.model
    return target.format != "anthropic" or target.capabilities.unsigned_thoughts


def _takes_texts(target: Target) -> bool:
    """Whether the target accepts the text of another vendor's thoughts."""
    capabilities = target.capabilities
    if target.format == _CHAT:
        return bool(capabilities.reasoning_field) or capabilities.thinking_parts
    return target.format not in _CHECKED or (
        target.format == "anthropic" and capabilities.unsigned_thoughts
    )


def _without_separate_thoughts(
    message: AnyPromptMessage, draft: Draft
) -> AnyPromptMessage:
    """Return an answer without reasoning in a field of its own, which nobody has signed,
    if the target takes none."""
    if not isinstance(message, AssistantPromptMessage) or not message.reasoning_content:
        return message
    if _takes_texts(draft.target):
        return message
    draft.drop("reasoning_content")
    return msgspec.structs.replace(message, reasoning_content=None)


# ----------------------------------------------------------------- Gemini's open turn


def _sign_open_turn(draft: Draft) -> None:
    """Sign the first call of each step of the current turn, if its signature is unknown.

    Gemini 3 refuses one without. Other calls of the step need none.
    """
    target = draft.target
    if target.format != _GEMINI or not target.capabilities.checks_signatures:
        return
    messages = list(draft.request.messages)
    start = len(messages) - len(current_turn(messages))
    for index in range(start, len(messages)):
        message = messages[index]
        if isinstance(message, AssistantPromptMessage) and message.tool_calls:
            messages[index] = _signed(message)
    if messages != draft.request.messages:
        draft.change(messages=messages)


def _signed(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return an answer whose first call has a signature."""
    blocks = blocks_of(message)
    first = next(i for i, block in enumerate(blocks) if isinstance(block, ToolCall))
    before = blocks[first - 1] if first else None
    if isinstance(before, ThinkingPromptMessageContent) and _is_signature(before):
        return message
    mark = ThinkingPromptMessageContent(signature=SKIP_SIGNATURE, origin=_GEMINI)
    return with_blocks(
        message,
        [
            *blocks[:first],
            mark,
            *blocks[first:],
        ],
    )


# ------------------------------------------------------------------------------ answers


class SignatureRestorer:
    """Marks the signatures of an answer with their issuer, and binds Gemini's to the
    calls that they sign."""

    def __init__(self, caller: str, target: Target) -> None:
        self._caller = caller
        self._target = target
        self._family = family_code(_family(target))
        # By the index of the choice.
        self._waiting: dict[int, ThinkingPromptMessageContent] = {}
        self._marked: set[tuple[int, int]] = set()

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk with marked signatures. A signature without a text waits for
        the call that it belongs to."""
        message, choice = chunk.delta.message, chunk.delta.index
        old = blocks_of(message)
        new = [block for each in old for block in self._restored(each, choice)]
        if new == old:
            return chunk
        delta: Any = msgspec.structs.replace(
            chunk.delta, message=with_blocks(message, new)
        )
        return msgspec.structs.replace(chunk, delta=delta)

    def finish(self) -> Iterable[LLMResultChunk]:
        """Return nothing: a signature after the last block proves no call. The answer
        would otherwise end with an empty thought."""
        self._waiting.clear()
        return ()

    def _restored(self, block: Block, choice: int) -> Iterator[Block]:
        """Yield what the caller gets for a block."""
        if isinstance(block, ThinkingPromptMessageContent):
            yield from self._restored_thought(block, choice)
        elif not isinstance(block, ToolCall):
            # The sources of a text come as an empty fragment of it.
            if not isinstance(block, TextPromptMessageContent) or block.data:
                yield from self._take_waiting(choice)
            yield block
        else:
            waiting = self._waiting.get(choice)
            # Later fragments of a streamed call have no id that could carry it.
            if waiting is None or not block.id:
                yield block
                return
            # A signature proves only the first call after it.
            del self._waiting[choice]
            call_id = id_with_signature(block.id, self._tagged(waiting))
            yield msgspec.structs.replace(block, id=call_id)

    def _restored_thought(
        self, thought: ThinkingPromptMessageContent, choice: int
    ) -> Iterator[Block]:
        """Yield a thought with a marked signature, or let the signature wait."""
        signs_calls = self._target.format in _CALL_SIGNERS
        if signs_calls and _is_signature(thought):
            yield from self._take_waiting(choice)
            self._waiting[choice] = self._with_tag(thought, choice)
            # The chat format has a field for signatures, so they are no block there.
            if self._caller == _CHAT:
                yield thought
            return
        yield self._with_tag(thought, choice) if thought.signature else thought

    def _take_waiting(self, choice: int) -> Iterator[Block]:
        """Yield a signature that proves no call, unless the caller has it already."""
        waiting = self._waiting.pop(choice, None)
        if waiting is not None and self._caller != _CHAT:
            yield waiting

    def _with_tag(
        self, thought: ThinkingPromptMessageContent, choice: int
    ) -> ThinkingPromptMessageContent:
        """Return a thought with a marked signature. Only the first fragment of one is
        marked; the chat format names the issuer itself."""
        if self._caller == _CHAT:
            return thought
        if thought.index is not None:
            if (choice, thought.index) in self._marked:
                return thought
            self._marked.add((choice, thought.index))
        return msgspec.structs.replace(thought, signature=self._tagged(thought))

    def _tagged(self, thought: ThinkingPromptMessageContent) -> str:
        """Return a signature with its mark."""
        # A signature that has waited for its call may have its mark already.
        if read_tag(thought.signature)[0] is not None:
            return thought.signature
        issuer = Issuer(
            self._target.format, thought.origin, self._family, thought.redacted
        )
        return tag_of(issuer) + thought.signature
