"""MODELS: one table, one row a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import SettingsError, did_you_mean

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ModelRow:
    """One model; the mask grid has `input_px / 4` cells a side.

    score_min, stability_min, stability_offset (logits): its filters (spec §0.4). decode_batch: prompts a decoder
    call on a CPU; larger batches fall out of the cache. checkpoint: the file that ships, or None.
    """

    name: str
    description: str
    licence: str
    input_px: int
    score_min: float
    stability_min: float
    stability_offset: float
    decode_batch: int
    checkpoint: Path | None = None

    @property
    def grid_side(self) -> int:
        """Cells a side of the decoder's mask grid."""
        return self.input_px // 4


MODELS = {
    row.name: row
    for row in (
        ModelRow(
            name="tiny",
            description="EfficientNet-Lite0 encoder, SAM decoder of width 128; ships, for trying the runtime",
            licence="Apache-2.0; trained on data with research terms, see the model card",
            input_px=512,
            score_min=0.3,
            stability_min=0.5,
            stability_offset=1.0,
            decode_batch=16,
            checkpoint=WEIGHTS / "tiny.safetensors",
        ),
    )
}


def get_model(name: str) -> ModelRow:
    """The row of `name`; SettingsError with the nearest names otherwise."""
    if name not in MODELS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, MODELS)}")
    return MODELS[name]
