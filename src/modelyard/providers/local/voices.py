"""Voices of the local speech model, and which of them other names stand for. Pure
functions."""

from collections.abc import Collection

from modelyard.base.errors import InvokeBadRequestError, suggestion

PACKED_VOICES = (
    "af_alloy",
    "af_aoede",
    "af_bella",
    "af_heart",
    "af_jessica",
    "af_kore",
    "af_nicole",
    "af_nova",
    "af_river",
    "af_sarah",
    "af_sky",
    "am_adam",
    "am_echo",
    "am_eric",
    "am_fenrir",
    "am_liam",
    "am_michael",
    "am_onyx",
    "am_puck",
    "am_santa",
    "bf_alice",
    "bf_emma",
    "bf_isabella",
    "bf_lily",
    "bm_daniel",
    "bm_fable",
    "bm_george",
    "bm_lewis",
    "zf_xiaobei",
    "zf_xiaoni",
    "zf_xiaoxiao",
    "zf_xiaoyi",
    "zm_yunjian",
    "zm_yunxi",
    "zm_yunxia",
    "zm_yunyang",
)
"""The order of the voices in `kokoro-voices-v1.0.bin`. First letter: a American, b
British, z Chinese. Second: f female, m male."""

JAPANESE_VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
"""Voices that exist even if the others were not downloaded. `jf_alpha` also speaks
intelligible English."""

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
"""OpenAI's voices and the nearest local voice: the one with the same name, otherwise
one of similar pitch."""

# Voices by sex for Chinese text, and those that always exist.
_CHINESE = {"f": "zf_xiaoxiao", "m": "zm_yunxi"}
_FALLBACK = {"f": "jf_alpha", "m": "jm_kumo"}


def choose_voice(name: str, present: Collection[str], *, is_chinese: bool) -> str:
    """Return the voice to use. `default` and OpenAI's names depend on the text's
    language; a local name is used as it is.

    Raises InvokeBadRequestError that suggests similar names if there is no such voice.
    """
    if name in present:
        return name
    if name == "default" or name in OPENAI_VOICES:
        preferred_voice = OPENAI_VOICES.get(name, "af_heart")
        # The second letter of a voice's name is its sex.
        sex = preferred_voice[1]
        for candidate in (
            _CHINESE[sex] if is_chinese else preferred_voice,
            preferred_voice,
            _FALLBACK[sex],
        ):
            if candidate in present:
                return candidate
    available_names = [*sorted(present), *OPENAI_VOICES, "default"]
    raise InvokeBadRequestError(
        f"Unknown voice {name!r}; {suggestion(name, available_names)}",
        param="voice",
    )
