"""A sheet of images as the model's first layer receives them."""

import numpy as np
import tensorflow as tf
from PIL import Image

from odin_beam.transforms.model.classifier import Classifier

_SHEET_SIDE = 96


def contact_sheet(classifier: Classifier, pixels: np.ndarray, columns: int = 8, rows: int = 8) -> Image.Image:
    """Some of the images as the model's first layer receives them, the sheet's range stretched to black and white.

    A channel order or a range that is wrong for the model shows as false colours or as clipped tones.

    Args:
      classifier: with the preprocessing to show.
      pixels: float32 [N, H, W, C] in [0, 1]; those shown lie evenly among them.
      columns: of the sheet.
      rows: of the sheet, at most.
    """
    shown = pixels[:: max(1, len(pixels) // (columns * rows))][: columns * rows]
    seen = classifier.preprocessing.apply(tf.constant(shown)).numpy()
    low, high = float(seen.min()), float(seen.max())
    grey = np.uint8(np.clip((seen - low) / ((high - low) or 1.0) * 255, 0, 255))
    sheet = Image.new("RGB", (columns * (_SHEET_SIDE + 2), -(-len(grey) // columns) * (_SHEET_SIDE + 2)), "white")
    for i, image in enumerate(grey):
        tile = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).resize((_SHEET_SIDE, _SHEET_SIDE), 0)
        sheet.paste(tile, ((i % columns) * (_SHEET_SIDE + 2) + 1, (i // columns) * (_SHEET_SIDE + 2) + 1))
    return sheet
