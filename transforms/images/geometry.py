"""How an image of any size is brought to the classifier's size; only numbers, no pixels."""

from dataclasses import dataclass
from typing import NamedTuple

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError

RESIZE_MODES = ("stretch", "shorter_side", "none")
CROP_MODES = ("none", "center")
JPEG_METHODS = {"accurate": "INTEGER_ACCURATE", "fast": "INTEGER_FAST"}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "area", "lanczos3", "lanczos5", "mitchellcubic", "gaussian")


@dataclass(frozen=True)
class Geometry:
    """How an image is decoded and, if its size differs, brought to the classifier's size.

        >>> odin_beam.Geometry(image_size=(224, 224), resize="shorter_side", crop="center").interpolation
        'bilinear'

    Attributes:
      image_size: (height, width) of the classifier's input; None if the classifier itself fixes it.
      resize: `stretch` to the size; `shorter_side` scales, keeping the aspect ratio, until the image covers the size;
        `none` leaves the pixels unchanged.
      crop: `center` cuts the middle out of an image that is larger than the size; `none` does not.
      interpolation: a method of `tf.image.resize`.
      antialias: whether shrinking averages (like Pillow) or samples (like Keras' loaders).
      jpeg: inverse transform of JPEG, `accurate` (as in Pillow and `keras.utils.load_img`) or `fast` (as in
        `tf.io.decode_jpeg` and `keras.utils.image_dataset_from_directory`).
    """

    image_size: tuple[int, int] | None = None
    resize: str = "stretch"
    crop: str = "none"
    interpolation: str = "bilinear"
    antialias: bool = False
    jpeg: str = "accurate"

    def __post_init__(self):
        for name, value, known in (
            ("resize", self.resize, RESIZE_MODES),
            ("crop", self.crop, CROP_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("jpeg", self.jpeg, JPEG_METHODS),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size needs two positive numbers, not {self.image_size}")
        if self.resize == "shorter_side" and self.crop == "none":
            raise ValueError("resize shorter_side keeps each image's aspect ratio, so it needs crop center")


class Placement(NamedTuple):
    """How an image is brought to the classifier's size.

    Attributes:
      size: (height, width) to scale it to.
      corner: (row, column) of the upper left corner of the part of the scaled image that is kept.
    """

    size: tuple[int, int]
    corner: tuple[int, int]


def placement(there: tuple[int, int], wanted: tuple[int, int], geometry: Geometry) -> Placement:
    """How to bring an image to the requested size.

    Args:
      there: (height, width) of the image.
      wanted: (height, width) of the classifier's input.
      geometry: the rules for scaling and cropping.

    Raises:
      ImageError: `wrong_size` if the geometry does not lead to that size, `too_many_pixels` if the image is so
        elongated that scaling its shorter side would make it huge.
    """
    scaled = there if there == wanted or geometry.resize == "none" else _scaled_size(there, wanted, geometry)
    top, left = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    if scaled != wanted and (geometry.crop == "none" or min(top, left) < 0):
        raise ImageError(
            "wrong_size",
            f"{scaled[0]} x {scaled[1]}; the classifier takes {wanted[0]} x {wanted[1]}, see `resize` and `crop`",
        )
    return Placement(scaled, (top, left))


def _scaled_size(there: tuple[int, int], wanted: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    if geometry.resize == "stretch":
        return wanted
    scale = max(wanted[0] / there[0], wanted[1] / there[1])
    scaled = max(wanted[0], round(there[0] * scale)), max(wanted[1], round(there[1] * scale))
    if scaled[0] * scaled[1] > limits.MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{there[0]} x {there[1]} scaled to {scaled[0]} x {scaled[1]}")
    return scaled
