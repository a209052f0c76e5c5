"""Whisper on CTranslate2: windows of 30 seconds, language detection, and segments with
their times."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ctranslate2 as _ctranslate2
import numpy as np
import soundfile
from tokenizers import Tokenizer

from modelyard.base.errors import InvokeBadRequestError

ctranslate2: Any = _ctranslate2  # without types

# The model was trained with this rate and windows of 30 seconds.
_RATE = 16_000
_WINDOW = 30 * _RATE
_HOP, _FFT, _MELS = 160, 400, 80
_STEP = 0.02  # seconds a timestamp token stands for
# Transcribing takes a part of the recording's own time.
_MAX_SECONDS = 4 * 3600
# Whisper mixes traditional and simplified characters unless a prompt sets the script.
_PROMPTS = {"zh": "以下是普通话的句子，使用简体中文。"}


class Engine:
    """Runs the transcription model on the CPU with 8-bit weights."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        folder = str(Path(files["model"]).parent)
        self._model: Any = ctranslate2.models.Whisper(
            folder,
            device="cpu",
            compute_type="int8",
            intra_threads=int(options["threads"]),
            inter_threads=1,
        )
        self._tokenizer: Any = Tokenizer.from_file(files["tokenizer"])
        self._text_end: int = self._tokenizer.token_to_id("<|endoftext|>")
        # Timestamp tokens follow directly after this one in the vocabulary.
        self._time_begin: int = self._tokenizer.token_to_id("<|notimestamps|>") + 1
        self._filters = mel_filters()

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield one result per window of 30 seconds: language, segments, and the length
        of the recording in seconds.

        Raises InvokeBadRequestError for an unknown language or an unreadable file.
        """
        del method
        samples = read_audio(payload["audio"])
        seconds = len(samples) / _RATE
        language: str | None = payload.get("language")
        if (
            language is not None
            and self._tokenizer.token_to_id(f"<|{language}|>") is None
        ):
            raise InvokeBadRequestError(
                f"Unknown language {language!r}; use an ISO 639-1 code such as"
                " 'en' or 'zh'"
            )
        position = 0
        while position < len(samples) and not is_cancelled():
            window = samples[position : position + _WINDOW]
            features = self._features(window)
            # The language is detected once, in the first window.
            language = language or self._detect(features)
            # A prompt only affects the start; later windows have the text before them.
            prompt = (
                payload.get("prompt") or _PROMPTS.get(language)
                if position == 0
                else None
            )
            tokens = self._generate(
                features, language, payload.get("task", "transcribe"), prompt
            )
            segments, step = self._segments(
                tokens, position / _RATE, len(window) / _RATE
            )
            yield {"language": language, "segments": segments, "seconds": seconds}
            is_last = position + _WINDOW >= len(samples)
            # The next window starts after the last complete segment, so that no
            # sentence is cut.
            position += len(window) if is_last or not step else int(step * _RATE)

    def _features(self, window: np.ndarray) -> Any:
        """Return the spectrogram of a window, as a batch of one."""
        return ctranslate2.StorageView.from_array(
            np.ascontiguousarray(log_mel(window, self._filters)[None])
        )

    def _detect(self, features: Any) -> str:
        """Return the code of the most likely language, as `en`."""
        return str(self._model.detect_language(features)[0][0][0])[2:-2]

    def _generate(
        self, features: Any, language: str, task: str, prompt: str | None
    ) -> list[int]:
        """Return the tokens that Whisper decodes for a window of 30 seconds.

        `features` is its log-mel spectrogram, `task` is `transcribe` or `translate`. Of
        the prompt, the last 200 tokens are used.
        """
        to_id = self._tokenizer.token_to_id
        # Whisper's task is set by its first tokens.
        start = [
            to_id(token)
            for token in ("<|startoftranscript|>", f"<|{language}|>", f"<|{task}|>")
        ]
        if prompt:
            # Whisper accepts at most about half of its context as prompt, so the end of
            # it is used.
            prompt_ids = self._tokenizer.encode(
                " " + prompt, add_special_tokens=False
            ).ids[-200:]
            start = [to_id("<|startofprev|>"), *prompt_ids, *start]
        # Greedy decoding; 448 is Whisper's maximum length.
        (result,) = self._model.generate(
            features, [start], beam_size=1, max_length=448, suppress_blank=True
        )
        return result.sequences_ids[0]

    def _segments(
        self, tokens: list[int], offset: float, length: float
    ) -> tuple[list[dict[str, Any]], float]:
        """Return the window's segments, and how many seconds the next window should
        advance.

        The advance ends at the last complete segment; 0.0 means the whole window.
        """
        segments: list[dict[str, Any]] = []
        segment_start, last, text_tokens = 0.0, 0.0, list[int]()
        # A final timestamp closes text that the model left open at the end of the
        # window.
        for token in [*tokens, self._time_begin + round(length / _STEP)]:
            if token < self._text_end:
                text_tokens.append(token)
            elif token >= self._time_begin:
                # The model may state a time beyond the end of the recording.
                moment = min((token - self._time_begin) * _STEP, length)
                if text_tokens and (
                    text := self._tokenizer.decode(text_tokens).strip()
                ):
                    segments.append(
                        {
                            "start": offset + segment_start,
                            "end": offset + max(moment, segment_start),
                            "text": text,
                        }
                    )
                if text_tokens:
                    text_tokens, last = [], moment
                segment_start = moment
        # A very short advance would process almost the same window again.
        return segments, last if last > 1 else 0.0


def read_audio(data: bytes) -> np.ndarray:
    """Read a recording as mono samples at 16 kHz.

    Any format of libsndfile is accepted, with any number of channels. Raises
    InvokeBadRequestError if it is not readable audio.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # Checked before decoding: a small compressed file may hold days of silence.
            if file.frames > _MAX_SECONDS * file.samplerate:
                raise InvokeBadRequestError(
                    f"The recording is longer than {_MAX_SECONDS // 3600} hours;"
                    " split it"
                )
            rate, samples = (
                file.samplerate,
                file.read(dtype="float32", always_2d=True).mean(1),
            )
    except (soundfile.LibsndfileError, ValueError) as error:
        raise InvokeBadRequestError(
            "The file is not audio in a supported format; send wav, mp3, flac or ogg",
            param="file",
        ) from error
    if not len(samples):
        raise InvokeBadRequestError("The recording contains no sound", param="file")
    return resample(samples, rate)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the samples at 16 kHz, by linear interpolation."""
    if rate == _RATE:
        return samples
    # The moving average removes frequencies that the lower rate cannot represent
    # (aliasing).
    if rate > _RATE:
        width = max(1, round(rate / _RATE))
        samples = np.convolve(
            samples,
            np.ones(width, np.float32) / width,
            "same",
        )
    moments = np.arange(
        0,
        len(samples),
        rate / _RATE,
    )
    return np.interp(
        moments,
        np.arange(len(samples)),
        samples,
    ).astype(np.float32)


def mel_filters() -> np.ndarray:
    """Return the filter bank that Whisper was trained with: Slaney's mel scale, 80
    bands, shape (80, 201)."""
    step, corner, log_step = 200 / 3, 1000.0, np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        """Convert Hertz to mel: linear up to 1,000 Hz, logarithmic above."""
        return (
            hertz / step
            if hertz < corner
            else corner / step + float(np.log(hertz / corner)) / log_step
        )

    mels = np.linspace(
        to_mel(0.0),
        to_mel(_RATE / 2),
        _MELS + 2,
    )
    corner_mel = corner / step
    # The band edges, converted back from mel to Hertz.
    points = np.where(
        mels < corner_mel, mels * step, corner * np.exp(log_step * (mels - corner_mel))
    )
    ramps = points[:, None] - np.fft.rfftfreq(_FFT, 1 / _RATE)[None]
    width = np.diff(points)
    triangles = np.maximum(
        0, np.minimum(-ramps[:-2] / width[:-1, None], ramps[2:] / width[1:, None])
    )
    # Each triangle is scaled to the same area (Slaney's normalisation).
    return (triangles * (2 / (points[2:] - points[:-2]))[:, None]).astype(np.float32)


def log_mel(samples: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram of 30 seconds, padded with silence; shape (80,
    3000)."""
    padded = np.pad(samples[:_WINDOW], (0, max(0, _WINDOW - len(samples))))
    padded = np.pad(padded, _FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][
        : _WINDOW // _HOP
    ]
    # A periodic Hann window, as in the training.
    window = np.hanning(_FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    logs = np.log10(np.maximum(filters @ power.T.astype(np.float32), 1e-10))
    # Whisper's normalisation: clipped to 8 below the maximum, then scaled.
    return ((np.maximum(logs, logs.max() - 8) + 4) / 4).astype(np.float32)
