"""Where frames come from."""

from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_files import PHOTO_SUFFIXES, PhotoFile, find_photos

__all__ = ["PHOTO_SUFFIXES", "PhotoFile", "find_photos", "read_photo"]
