"""The self-test of engines: their masks are compared with those of ONNX Runtime in float32 on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import EngineError
from esam_rt.loading.engine_cache import record_self_test
from esam_rt.loading.engine_record import EngineSet
from esam_rt.masks import MaskSet
from esam_rt.rounding import ceil_div
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters

SIDE = 6  # prompts on a side of the grid
REPLAYED = 4  # full batches with CUDA graphs: the first is a plain call, the second is captured
IOU_MIN = 0.99  # mean IoU of the masks
SCORE_MAX = 0.02  # largest difference of two scores
EVERYTHING = Filters(score_min=0.0, stability_min=0.0, stability_offset=1.0, min_area=16)


@dataclass(frozen=True)
class SelfTest:
    """Result of a comparison.

    Attributes:
        masks: Number of compared masks.
        iou: Their mean IoU.
        score: Largest difference of two predicted IoUs.
        cuda_graphs: True if calls ran as CUDA graphs.
    """

    masks: int
    iou: float
    score: float
    cuda_graphs: bool = False


def check_once(engines: EngineSet, sam: Sam, reference: Callable[[], Sam], cuda_graphs: bool = False) -> None:
    """Test engines that were not tested before, and write the result into their record.

    The photo comes from scikit-image. Engines that failed without CUDA graphs are not used again.

    Args:
        engines: The engines.
        sam: The model on these engines.
        reference: Loads the same model on ONNX Runtime.
        cuda_graphs: Test CUDA graphs too. They have a test of their own: plain calls may be right and they wrong.

    Raises:
        EngineError: The engines failed.
    """
    tested = engines.record.self_test
    if tested and (tested.get("cuda_graphs") or not cuda_graphs):
        return
    from skimage import data

    image: NDArray[np.uint8] = data.astronaut()  # type: ignore[no-untyped-call]
    baseline = reference()
    try:
        result = asdict(self_test(sam, baseline, image, cuda_graphs))
    except EngineError as e:
        if cuda_graphs:
            raise EngineError(f"{e} This was with CUDA graphs; try without.") from e
        record_self_test(engines, {"failed": str(e)})
        raise
    finally:
        baseline.close()
    record_self_test(engines, result)


def self_test(engines: Sam, reference: Sam, image_hwc_rgb: NDArray[np.uint8], cuda_graphs: bool = False) -> SelfTest:
    """Compare, and fail if the difference is larger than reduced precision explains.

    Fused attention has been wrong on some GPUs without an error.

    Args:
        engines: The model on the engines under test.
        reference: The model on ONNX Runtime.
        image_hwc_rgb: uint8 [H, W, 3].
        cuda_graphs: As in ``compare``.

    Returns:
        The result.

    Raises:
        EngineError: The masks or scores differ too much, or neither model has a mask.
    """
    result = compare(engines, reference, image_hwc_rgb, cuda_graphs)
    if result.iou < IOU_MIN or result.score > SCORE_MAX:
        raise EngineError(
            f"Self-test: mean IoU of {result.masks} masks {result.iou:.4f}, greatest difference of scores "
            f"{result.score:.4f}; expected at least {IOU_MIN} and at most {SCORE_MAX}. Use --precision bf16 or "
            "fp32, or engines of esam-rt build-engine --no-fusion --out FOLDER with --engines FOLDER."
        )
    return result


def compare(engines: Sam, reference: Sam, image_hwc_rgb: NDArray[np.uint8], cuda_graphs: bool = False) -> SelfTest:
    """Compare the masks of two models for a grid of point prompts. A mask that one of them lacks has an IoU of 0.

    Args:
        engines: The model on the engines under test.
        reference: The baseline.
        image_hwc_rgb: uint8 [H, W, 3].
        cuda_graphs: Repeat the prompts until full batches run as CUDA graphs. Each answer counts.

    Returns:
        The result.

    Raises:
        EngineError: Neither model has a mask.
    """
    points = point_grid(SIDE)
    rounds = ceil_div(REPLAYED * engines.model.decode_batch, len(points)) if cuda_graphs else 1
    candidate = engines.decode(engines.encode(image_hwc_rgb), np.tile(points, (rounds, 1)), 0, EVERYTHING)
    baseline = reference.decode(reference.encode(image_hwc_rgb), points, 0, EVERYTHING)
    keys = zip(candidate.prompt_index, candidate.mask_index, strict=True)
    unmatched = {(int(prompt), int(mask)): i for i, (prompt, mask) in enumerate(keys)}
    ious, scores = [], []
    answers = list(enumerate(zip(baseline.prompt_index.tolist(), baseline.mask_index.tolist(), strict=True)))
    for nth, (j, (prompt, mask)) in itertools.product(range(rounds), answers):
        i = unmatched.pop((nth * len(points) + prompt, mask), None)
        ious.append(0.0 if i is None else _iou(candidate, i, baseline, j))
        scores.append(1.0 if i is None else abs(float(candidate.predicted_iou[i]) - float(baseline.predicted_iou[j])))
    ious += [0.0] * len(unmatched)
    if not ious:
        raise EngineError(
            "Self-test: found no masks to compare: the weights give no mask on the test photo. Check the checkpoint."
        )
    return SelfTest(len(ious), float(np.mean(ious)), max(scores, default=1.0), cuda_graphs)


def _iou(a: MaskSet, i: int, b: MaskSet, j: int) -> float:
    """IoU of two masks."""
    pair = a.bits[i], b.bits[j]
    both, either = (int(np.unpackbits(f(*pair).view(np.uint8)).sum()) for f in (np.bitwise_and, np.bitwise_or))
    return both / either if either else 1.0
