"""EngineSpec: the TensorRT engines that a run or a build wants."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from esam_rt.engines.tensorrt.builder import BuildOptions, check_rtx, fuses_attention
from esam_rt.errors import SettingsError
from esam_rt.sam.models import ModelSpec


@dataclass(frozen=True)
class Gpu:
    """A GPU that engines are made for.

    Attributes:
        capability: Compute capability, such as ``sm_86``.
        name: Product name.
    """

    capability: str
    name: str


@dataclass(frozen=True)
class EngineSpec:
    """The engines that are wanted.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        fusion: If true, attention is one fused kernel where the library has it. If false, it is products and softmax.
        options: Options of the build. ``None`` = the defaults, or those of any engines that were built ahead of time.
        gpu: The GPU of this machine, ``None`` without one.
        gpu_index: Index of that GPU, as CUDA counts them.

    Raises:
        SettingsError: TensorRT-RTX does not run on these GPUs, not in this precision, or not with these options.
    """

    backend: str
    precision: str = "fp16"
    fusion: bool = True
    options: BuildOptions | None = None
    gpu: Gpu | None = None
    gpu_index: int = 0

    def __post_init__(self) -> None:
        at_hand = (self.gpu.capability,) if self.gpu else ()
        if self.backend == "tensorrt-rtx":
            check_rtx((self.options and self.options.targets) or at_hand, self.precision)
            if self.options and self.options.version_compatible:
                raise SettingsError(
                    "--version-compatible: TensorRT-RTX runs only what its own version has built. Use --backend "
                    "tensorrt, or build again after an update."
                )

    def attention(self, row: ModelSpec, library: ModuleType) -> str | None:
        """Choose the attention form of the encoder. TensorRT fuses attention in half precision only.

        Args:
            row: The model.
            library: The imported ``tensorrt`` or ``tensorrt_rtx``.

        Returns:
            ``fused`` or ``concat``; ``None`` for a model without a choice.
        """
        if row.attention is None:
            return None
        return "fused" if self.fusion and self.precision != "fp32" and fuses_attention(library) else "concat"
