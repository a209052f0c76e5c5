"""The local speaker's voices: their names, and which one another's name stands for. Pure."""

from collections.abc import Collection

from modelyard.base.errors import InvokeBadRequestError, suggestion

PACKED_VOICES = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_nova", "af_river",
    "af_sarah", "af_sky", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
    "am_santa", "bf_alice", "bf_emma", "bf_isabella", "bf_lily", "bm_daniel", "bm_fable", "bm_george", "bm_lewis",
    "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang",
)  # fmt: skip
"""In the order in which `kokoro-voices-v1.0.bin` holds them. First letter: a American, b British, z Chinese; second:
f female, m male."""

JAPANESE_VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
"""What there is where the others could not be fetched; `jf_alpha` speaks English that is understood word for word."""

OPENAI_VOICES = {
    "alloy": "af_alloy",
    "ash": "am_michael",
    "ballad": "bm_george",
    "cedar": "am_adam",
    "coral": "af_sarah",
    "echo": "am_echo",
    "fable": "bm_fable",
    "marin": "af_heart",
    "nova": "af_nova",
    "onyx": "am_onyx",
    "sage": "af_kore",
    "shimmer": "af_bella",
    "verse": "am_puck",
}
"""OpenAI's usual names and the nearest voice: the namesake where there is one, else one of like pitch."""

_CHINESE = {"f": "zf_xiaoxiao", "m": "zm_yunxi"}
_FALLBACK = {"f": "jf_alpha", "m": "jm_kumo"}


def choose_voice(name: str, present: Collection[str], *, is_chinese: bool) -> str:
    """The voice to speak with. `default` and OpenAI's names follow the text's language; a voice's own name is kept.

    Raises InvokeBadRequestError with near names where there is no such voice.
    """
    if name in present:
        return name
    if name == "default" or name in OPENAI_VOICES:
        wanted = OPENAI_VOICES.get(name, "af_heart")
        sex = wanted[1]
        for candidate in (_CHINESE[sex] if is_chinese else wanted, wanted, _FALLBACK[sex]):
            if candidate in present:
                return candidate
    known = [*sorted(present), *OPENAI_VOICES, "default"]
    raise InvokeBadRequestError(
        f"voice {name!r} does not exist; {suggestion(name, known, label='there are')}", param="voice"
    )
