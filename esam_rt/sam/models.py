"""MODELS: one table, one row a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esam_rt.errors import SettingsError, did_you_mean

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Remote:
    """A published checkpoint."""

    url: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """As published."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ModelSpec:
    """One model; the mask grid has `input_px / 4` cells a side.

    score_min, stability_min, stability_offset (logits): its filters, as SAM's. theta_o, amg_nms: IoU thresholds of the
    NMS over object masks and of automatic mask generation; E-SAM's and SAM's unless the model needs others.
    decode_batch: prompts a decoder call on a CPU; larger batches fall out of the cache. points_per_prompt: that the
    decoder takes; a single point is followed by padding. attention: of a ViT, the form that is fastest on a CPU, or
    None where there is no choice. checkpoint: the file that ships, or None. remote: the
    published one, or None.
    """

    name: str
    description: str
    license: str
    input_px: int
    score_min: float
    stability_min: float
    stability_offset: float
    decode_batch: int
    points_per_prompt: int = 2
    attention: str | None = None
    theta_o: float = 0.8
    amg_nms: float = 0.7
    checkpoint: Path | None = None
    remote: Remote | None = None

    def default_thresholds(self) -> dict[str, float]:
        """The settings that a model decides where the user does not."""
        return {
            "filters.score_min": self.score_min,
            "filters.stability_min": self.stability_min,
            "filters.stability_offset": self.stability_offset,
            "mmg.theta_o": self.theta_o,
            "amg.nms": self.amg_nms,
        }


META = "https://dl.fbaipublicfiles.com/segment_anything/"


def _sam(name: str, description: str, remote: Remote, attention: str | None = "bias") -> ModelSpec:
    """A model with SAM's input and filters. At 4 prompts a call the decoder is within 6 % of its best rate and takes
    half the memory of 8 (benchmarks/decoder_speed.py)."""
    return ModelSpec(
        name=name,
        description=description,
        license="Apache-2.0",
        input_px=1024,
        score_min=0.88,
        stability_min=0.95,
        stability_offset=1.0,
        decode_batch=4,
        attention=attention,
        remote=remote,
    )


MODELS = {
    row.name: row
    for row in (
        ModelSpec(
            name="tiny",
            description="small network that ships, for trying the runtime",
            license="Apache-2.0, data: see its card",
            input_px=512,
            # Calibrated on coco/panoptic_dev: its scores and logits are lower than SAM's, and its masks of one
            # entity differ more from each other.
            score_min=0.3,
            stability_min=0.35,
            stability_offset=1.0,
            theta_o=0.6,
            amg_nms=0.6,
            decode_batch=16,
            points_per_prompt=1,
            checkpoint=WEIGHTS / "tiny.safetensors",
        ),
        _sam(
            "vit_t",
            "MobileSAM: TinyViT encoder",
            Remote(
                "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
                40_728_226,
                "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            ),
            attention=None,
        ),
        _sam(
            "vit_b",
            "SAM ViT-B",
            Remote(
                f"{META}sam_vit_b_01ec64.pth",
                375_042_383,
                "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            ),
        ),
        _sam(
            "vit_l",
            "SAM ViT-L",
            Remote(
                f"{META}sam_vit_l_0b3195.pth",
                1_249_524_607,
                "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            ),
        ),
        _sam(
            "vit_h",
            "SAM ViT-H",
            Remote(
                f"{META}sam_vit_h_4b8939.pth",
                2_564_550_879,
                "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            ),
        ),
    )
}


def get_model(name: str) -> ModelSpec:
    """The row of `name`; SettingsError with the nearest names otherwise."""
    if name not in MODELS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, MODELS)}")
    return MODELS[name]
