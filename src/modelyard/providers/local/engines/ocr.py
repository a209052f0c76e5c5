"""PP-OCRv6, Chinese, Japanese and languages of Latin letters: the text in a picture, line by line."""

import os
from collections.abc import Callable, Iterator
from typing import Any

_MAX_PIXELS = 40_000_000
# Read when the library loads: a small file may claim to be a picture of gigabytes.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(_MAX_PIXELS)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from rapidocr import RapidOCR  # noqa: E402

from modelyard.base.errors import InvokeBadRequestError  # noqa: E402


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        # Each model by its path: the library fetches what it is not told, from a hub that the manifest does not know.
        self._reader: Any = RapidOCR(params={
            "Global.log_level": "warning",
            "EngineConfig.onnxruntime.intra_op_num_threads": int(options["threads"]),
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.model_path": files["detection"],
            "Cls.model_path": files["direction"],
            "Rec.model_path": files["recognition"],
        })  # fmt: skip

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        del method, is_cancelled
        try:
            picture = cv2.imdecode(np.frombuffer(payload["image"], np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise InvokeBadRequestError(f"the picture has more than {_MAX_PIXELS:,} pixels, or none") from error
        if picture is None:
            raise InvokeBadRequestError("the picture cannot be read; send png, jpeg or webp")
        yield [str(line) for line in self._reader(picture).txts or ()]
