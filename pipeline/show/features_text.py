"""How much storage features take, in words."""

from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.tables.schemas import FEATURE_TYPES


def features_text(images: int, width: int, dtype: str) -> str:
    """The line that `score` prints before it writes anything.

    Args:
      images: how many are expected.
      width: D, features of an image.
      dtype: of a feature, one of `FEATURE_TYPES`.
    """
    size = images * width * FEATURE_TYPES[dtype].bit_width / 8
    return f"features: about {_bytes(size)} for {plural(images, 'image')} ({width:,} {dtype} each)"


def _bytes(size: float) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        # Whole numbers of a unit serve up to a thousand of it.
        if size >= scale:
            return f"{size / scale:.1f} {unit}" if size < 100 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size / 1e3:.1f} kB"
