"""Where frames come from."""

from esam_rt.sources.photos import PHOTO_SUFFIXES, PhotoFile, find_photos, read_photo

__all__ = ["PHOTO_SUFFIXES", "PhotoFile", "find_photos", "read_photo"]
