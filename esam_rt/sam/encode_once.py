"""EncodeOnce: encodes an image once at most, and keeps the result."""

from __future__ import annotations

from typing import Any

from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.promptable import Promptable


class EncodeOnce:
    """Encodes one image.

    Args:
        sam: The model.
        encoded: The image, if it is encoded already.

    Attributes:
        encoded: The image after the call. None before.
    """

    def __init__(self, sam: Promptable, encoded: EncodedImage | None = None) -> None:
        self._sam, self.encoded = sam, encoded

    def __call__(self, image: Any) -> EncodedImage:
        """Return the encoded image.

        Args:
            image: What ``Promptable.encode`` takes.
        """
        if self.encoded is None:
            self.encoded = self._sam.encode(image)
        return self.encoded
