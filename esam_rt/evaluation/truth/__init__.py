"""Readers of ground truth: COCO, panoptic, EntitySeg, BSDS500."""
