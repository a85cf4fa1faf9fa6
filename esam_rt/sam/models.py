"""MODELS: the table of models. A new model is one row here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esam_rt.errors import SettingsError, did_you_mean

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Remote:
    """A published checkpoint.

    Attributes:
        url: Address of the file.
        size_bytes: Size of the file.
        sha256: SHA-256 of the file, in hex.
    """

    url: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The name of the published file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Footprint:
    """Memory that ONNX Runtime takes on a CPU in float32, in MB.

    Measured with benchmarks/engine_memory.py on x86-64 with version 1.32 and two threads.

    Attributes:
        weights: Memory after loading.
        least: Peak over several images with a few prompts a call. The encoder needs it; the prompts share it.
        prompt: Memory of each prompt of a larger call.
    """

    weights: float
    least: float
    prompt: float


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Attributes:
        name: Name on the command line.
        description: One line for ``esam-rt models``.
        license: License of the weights.
        input_px: Side of the square input, in pixels. The mask grid has ``input_px / 4`` cells a side.
        score_min: Default of ``filters.score_min``.
        stability_min: Default of ``filters.stability_min``.
        stability_offset: Default of ``filters.stability_offset``, in logits.
        decode_batch: Prompts of one decoder call on a CPU. Larger batches do not fit into the CPU's cache.
        points_per_prompt: Points that the decoder takes for each prompt. A single point is followed by padding.
        attention: The fastest attention form of a ViT on a CPU. ``None`` if there is only one form.
        theta_o: Default of ``mmg.theta_o``: E-SAM's number unless the model needs another one.
        amg_nms: Default of ``amg.nms``: SAM's number unless the model needs another one.
        checkpoint: File of the weights that ship with the package, or ``None``.
        remote: Published weights, or ``None``.
        footprint: Memory on a CPU, or ``None`` if it was not measured.
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
    footprint: Footprint | None = None

    def default_thresholds(self) -> dict[str, float]:
        """Return the numbers that replace ``None`` in the settings, by full name."""
        return {
            "filters.score_min": self.score_min,
            "filters.stability_min": self.stability_min,
            "filters.stability_offset": self.stability_offset,
            "mmg.theta_o": self.theta_o,
            "amg.nms": self.amg_nms,
        }


META = "https://dl.fbaipublicfiles.com/segment_anything/"


def _sam(
    name: str, description: str, remote: Remote, footprint: Footprint, attention: str | None = "bias"
) -> ModelSpec:
    """Make the row of a model with SAM's input and filters."""
    return ModelSpec(
        name=name,
        description=description,
        license="Apache-2.0",
        input_px=1024,
        score_min=0.88,
        stability_min=0.95,
        stability_offset=1.0,
        decode_batch=4,  # within 6 % of the best rate, at half the memory of 8 (benchmarks/decoder_speed.py)
        attention=attention,
        remote=remote,
        footprint=footprint,
    )


MODELS = {
    model.name: model
    for model in (
        ModelSpec(
            name="tiny",
            description="small network that ships, for trying the runtime",
            license="Apache-2.0, data: see its card",
            input_px=512,
            # Calibrated on coco/panoptic_dev: scores and logits are lower than SAM's, and masks of one entity differ
            # more from each other. amg_nms is calibrated on it and on held-out photos of MSRC.
            score_min=0.3,
            stability_min=0.35,
            stability_offset=1.0,
            theta_o=0.6,
            amg_nms=0.4,
            decode_batch=16,
            points_per_prompt=1,
            checkpoint=WEIGHTS / "tiny.safetensors",
            footprint=Footprint(45, 162, 9),
        ),
        _sam(
            "vit_t",
            "MobileSAM: TinyViT encoder",
            Remote(
                "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
                40_728_226,
                "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            ),
            Footprint(80, 390, 56),
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
            Footprint(400, 970, 56),
        ),
        _sam(
            "vit_l",
            "SAM ViT-L",
            Remote(
                f"{META}sam_vit_l_0b3195.pth",
                1_249_524_607,
                "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            ),
            Footprint(1275, 1925, 56),
        ),
        _sam(
            "vit_h",
            "SAM ViT-H",
            Remote(
                f"{META}sam_vit_h_4b8939.pth",
                2_564_550_879,
                "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            ),
            Footprint(2575, 3350, 56),
        ),
    )
}


def get_model(name: str) -> ModelSpec:
    """Return the row of a model.

    Args:
        name: Name of the model.

    Raises:
        SettingsError: The name is unknown; the message gives the nearest names.
    """
    if name not in MODELS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, MODELS)}")
    return MODELS[name]
