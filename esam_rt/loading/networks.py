"""The four networks of a model: the table from which all file names and loops follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

NETWORKS = ("encoder", "decoder", "mask_head", "logits")
GRAPHS = tuple(f"{name}.onnx" for name in NETWORKS)
ENGINE_FILES = tuple(f"{name}.engine" for name in NETWORKS)


@dataclass(frozen=True)
class Networks(Generic[T]):
    """One value for each network, in the order of ``NETWORKS``; iterable.

    Attributes:
        encoder: Image to image features.
        decoder: Image features and prompts to scores and prompt features.
        mask_head: Prompt features to bit-packed masks.
        logits: Prompt features to mask logits.
    """

    encoder: T
    decoder: T
    mask_head: T
    logits: T

    def __iter__(self) -> Iterator[T]:
        return iter((self.encoder, self.decoder, self.mask_head, self.logits))

    def map(self, change: Callable[[T], U]) -> Networks[U]:
        """Apply a function to each value.

        Args:
            change: Called four times, in the order of ``NETWORKS``.

        Returns:
            The results.
        """
        return Networks(*map(change, self))


ENGINES_BY_NETWORK: Networks[str] = Networks(*ENGINE_FILES)
"""Engine file name of each network."""
