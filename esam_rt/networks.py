"""Networks: the four networks of a model as one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

Item = TypeVar("Item")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Networks(Generic[Item]):
    """One item for each network of a model: its engine, its file or its name.

    Attributes:
        encoder: Image to embedding. It runs once for each image.
        decoder: Prompts to predicted IoUs and tokens.
        mask_head: Tokens to bit-packed masks with area, box and stability score.
        logits: Tokens to mask logits.
    """

    encoder: Item
    decoder: Item
    mask_head: Item
    logits: Item

    def __iter__(self) -> Iterator[Item]:
        return iter((self.encoder, self.decoder, self.mask_head, self.logits))

    def map(self, function: Callable[[Item], Other]) -> Networks[Other]:
        """Apply a function to the item of each network, in order.

        Args:
            function: It gets one item and returns the item that takes its place.
        """
        return Networks(*map(function, self))


NETWORK_NAMES = Networks(*(field.name for field in fields(Networks)))
GRAPHS = tuple(f"{name}.onnx" for name in NETWORK_NAMES)
ENGINE_FILES = tuple(f"{name}.engine" for name in NETWORK_NAMES)
ENGINES_BY_NETWORK: Networks[str] = NETWORK_NAMES.map("{}.engine".format)
