"""Ground truth: COCO, panoptic, EntitySeg, BSDS500."""
