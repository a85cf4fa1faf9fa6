"""Quality against ground truth: COCO's AP^e, BSDS500's region and boundary measures, confidence intervals.

The scoring functions take masks and label maps and need no files:

    matches = [match_photo(entities, found.to_coco()) for entities, found in photos]
    average_precision(matches)["AP"]
    regions = [compare(found.labels, annotated) for found, annotated in photos]
    estimates(RegionScores(regions), resamples(len(regions), 1000, seed=0))["covering"]
"""

from esam_rt.evaluation.metrics.average_precision import AveragePrecision, average_precision
from esam_rt.evaluation.metrics.bootstrap import Estimate, differences, estimates, resamples
from esam_rt.evaluation.metrics.boundaries import boundary, match_boundaries
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.metrics.region_scores import (
    PhotoRegions,
    RegionScores,
    compare,
    contingency,
    covering,
    rand_index,
    variation_of_information,
)
from esam_rt.evaluation.predictions import Predictions, label_map, read_predictions
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.ground_truth import read_truth
from esam_rt.evaluation.truth.true_photo import TruePhoto

__all__ = [
    "AveragePrecision",
    "Estimate",
    "MaskTruth",
    "PhotoMatches",
    "PhotoRegions",
    "Predictions",
    "RegionScores",
    "RegionTruth",
    "TruePhoto",
    "average_precision",
    "boundary",
    "compare",
    "contingency",
    "covering",
    "differences",
    "estimates",
    "label_map",
    "match_boundaries",
    "match_photo",
    "rand_index",
    "read_predictions",
    "read_truth",
    "resamples",
    "variation_of_information",
]
