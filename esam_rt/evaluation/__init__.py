"""Quality against ground truth: AP^e of COCO, region and boundary measures of BSDS500, confidence intervals.

Evaluate a folder of photos::

    plan = prepare(EvalOptions(truth=Path("truth.json"), images=Path("photos"), out=Path("eval"), run=run))
    segment(plan)
    result = evaluate(plan)
    write(result)

The scoring functions take masks and need no files::

    matches = [match_photo(entities, found.to_coco()) for entities, found in photos]
    average_precision(matches)["AP"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.evaluation.metrics.average_precision import average_precision
    from esam_rt.evaluation.metrics.matching import match_photo
    from esam_rt.evaluation.plan import EvalOptions
    from esam_rt.evaluation.run_evaluation import evaluate, prepare, segment, write
    from esam_rt.evaluation.truth.ground_truth import read_truth

__all__ = ["EvalOptions", "average_precision", "evaluate", "match_photo", "prepare", "read_truth", "segment", "write"]

_HOMES = {
    "EvalOptions": ".plan",
    "average_precision": ".metrics.average_precision",
    "evaluate": ".run_evaluation",
    "match_photo": ".metrics.matching",
    "prepare": ".run_evaluation",
    "read_truth": ".truth.ground_truth",
    "segment": ".run_evaluation",
    "write": ".run_evaluation",
}
# Scoring imports SciPy, scikit-image and pycocotools: only what is used is imported.
__getattr__ = lazy_names(__name__, _HOMES)
