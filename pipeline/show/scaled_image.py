"""An image at the size that a sheet or a page shows it in."""

import numpy as np
from PIL import Image


def scaled_image(pixels: np.ndarray, side: int) -> Image.Image:
    """An image whose longer side has at most that many pixels; small ones keep their pixels, large ones are averaged.

    Args:
      pixels: uint8 [H, W, 1 or 3].
      side: in pixels.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    scale = side / max(image.size)
    if scale >= 1:
        # Whole multiples, so that all pixels are of one size.
        return image.resize([length * int(scale) for length in image.size], Image.Resampling.NEAREST)
    return image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)
