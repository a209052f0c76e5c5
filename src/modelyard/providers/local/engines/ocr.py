"""PP-OCRv6 for Chinese, Japanese and languages in Latin script: the text in an image,
line by line."""

import os
from collections.abc import Callable, Iterator
from typing import Any

# A small file can hold a huge image: each pixel needs several bytes.
_MAX_PIXELS = 40_000_000
# OpenCV reads this when it loads. A small file may declare an image of gigabytes.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(_MAX_PIXELS)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from rapidocr import RapidOCR  # noqa: E402

from modelyard.base.errors import InvokeBadRequestError  # noqa: E402


class Engine:
    """Runs the OCR models on the CPU."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        # Every model is given by its path: the library would download missing ones from
        # a hub that the manifest does not list.
        self._reader: Any = RapidOCR(
            params={
                "Global.log_level": "warning",
                "EngineConfig.onnxruntime.intra_op_num_threads": int(
                    options["threads"]
                ),
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": files["detection"],
                "Cls.model_path": files["direction"],
                "Rec.model_path": files["recognition"],
            }
        )

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the lines of text in an image as one list. Raises InvokeBadRequestError
        if it is not a readable image."""
        del method, is_cancelled
        try:
            picture = cv2.imdecode(
                np.frombuffer(payload["image"], np.uint8), cv2.IMREAD_COLOR
            )
        except cv2.error as error:
            raise InvokeBadRequestError(
                f"The image has more than {_MAX_PIXELS:,} pixels, or none"
            ) from error
        if picture is None:
            raise InvokeBadRequestError(
                "The image cannot be decoded; send png, jpeg or webp"
            )
        # The library returns None if it finds no text.
        yield [str(line) for line in self._reader(picture).txts or ()]
