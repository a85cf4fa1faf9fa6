"""Do engines say what the same model says in float32 on the CPU?"""

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
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters

SIDE = 6  # of the grid of prompts
REPLAYED = 4  # batches: the first is run as any, the second is captured
IOU_MIN = 0.99  # mean IoU of the masks
SCORE_MAX = 0.02  # greatest difference of the scores
EVERYTHING = Filters(score_min=0.0, stability_min=0.0, stability_offset=1.0, min_area=16)


@dataclass(frozen=True)
class SelfTest:
    """masks: compared. iou: mean over them. score: greatest difference of their scores. cuda_graphs: whether calls were
    replayed."""

    masks: int
    iou: float
    score: float
    cuda_graphs: bool = False


def check_once(engines: EngineSet, sam: Sam, reference: Callable[[], Sam], cuda_graphs: bool = False) -> None:
    """Self-test of engines that were not tested before, or not with CUDA graphs, on a photo that scikit-image carries;
    the result is noted beside them, and engines that fail without are not used again. EngineError as of `self_test`."""
    tested = engines.sidecar.get("self_test")
    if tested and (tested.get("cuda_graphs") or not cuda_graphs):
        return
    from skimage import data

    photo: NDArray[np.uint8] = data.astronaut()  # type: ignore[no-untyped-call]
    other = reference()
    try:
        result = asdict(self_test(sam, other, photo, cuda_graphs))
    except EngineError as e:
        if cuda_graphs:  # perhaps they are right without
            raise EngineError(f"{e} This was with CUDA graphs; try without.") from e
        record_self_test(engines, {"failed": str(e)})
        raise
    finally:
        other.close()
    record_self_test(engines, result)


def self_test(engines: Sam, reference: Sam, image_hwc_rgb: NDArray[np.uint8], cuda_graphs: bool = False) -> SelfTest:
    """`compare`, and EngineError if the masks or the scores differ by more than reduced precision explains: fused
    attention has been wrong on some GPUs without a word."""
    result = compare(engines, reference, image_hwc_rgb, cuda_graphs)
    if result.iou < IOU_MIN or result.score > SCORE_MAX:
        raise EngineError(
            f"Self-test: mean IoU of {result.masks} masks {result.iou:.4f}, greatest difference of scores "
            f"{result.score:.4f}; expected at least {IOU_MIN} and at most {SCORE_MAX}. Use --precision bf16 or "
            "fp32, or engines of esam-rt build-engine --no-fusion --out FOLDER with --engines FOLDER."
        )
    return result


def compare(engines: Sam, reference: Sam, image_hwc_rgb: NDArray[np.uint8], cuda_graphs: bool = False) -> SelfTest:
    """What a model's engines and a reference answer to a grid of prompts on a photo uint8 [H, W, 3]; a mask that one of
    them lacks counts as an IoU of 0. EngineError if neither has any.

    cuda_graphs: prompt the engines again and again, until full batches are replayed; each answer counts.
    """
    points = point_grid(SIDE)
    rounds = -(-REPLAYED * engines.model.decode_batch // len(points)) if cuda_graphs else 1
    ours = engines.decode(engines.encode(image_hwc_rgb), np.tile(points, (rounds, 1)), 0, EVERYTHING)
    theirs = reference.decode(reference.encode(image_hwc_rgb), points, 0, EVERYTHING)
    at = {(int(p), int(o)): i for i, (p, o) in enumerate(zip(ours.prompt_index, ours.mask_index, strict=True))}
    ious, scores = [], []
    answers = list(enumerate(zip(theirs.prompt_index.tolist(), theirs.mask_index.tolist(), strict=True)))
    for nth, (j, (point, output)) in itertools.product(range(rounds), answers):
        i = at.pop((nth * len(points) + point, output), None)
        ious.append(0.0 if i is None else _iou(ours, i, theirs, j))
        scores.append(1.0 if i is None else abs(float(ours.predicted_iou[i]) - float(theirs.predicted_iou[j])))
    ious += [0.0] * len(at)  # masks that the reference does not have
    if not ious:
        raise EngineError("Self-test: found no masks to compare; the weights answer nothing on the test photo.")
    return SelfTest(len(ious), float(np.mean(ious)), max(scores, default=1.0), cuda_graphs)


def _iou(a: MaskSet, i: int, b: MaskSet, j: int) -> float:
    """IoU of two masks."""
    pair = a.bits[i], b.bits[j]
    both, either = (int(np.unpackbits(f(*pair).view(np.uint8)).sum()) for f in (np.bitwise_and, np.bitwise_or))
    return both / either if either else 1.0
