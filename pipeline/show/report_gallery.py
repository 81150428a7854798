"""The report's pictures of images: read back by shard and offset, with the class activation map laid over them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from odin_beam.pipeline.show.report_figures import MAP_COLOURS
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.features import activation_map
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.read_back import read_back
from odin_beam.transforms.shards.shard import Shard

_SIDE = 112
_OVERLAY = 0.5


@dataclass(frozen=True)
class Picture:
    """One image of a gallery.

    Attributes:
      row: of the scores, with `score`.
      image: `data:` URI; None if the image is no longer available.
      overlay: the same with the activation map of the predicted class; None where the model has none.
      problem: why there is no image.
    """

    row: dict[str, Any]
    image: str | None = None
    overlay: str | None = None
    problem: str | None = None


def make_pictures(
    rows: Sequence[dict[str, Any]],
    shards: Sequence[Shard],
    folder: str,
    classifier: Classifier,
    settings: ScoreSettings,
) -> list[Picture]:
    """Reads the images of some rows back and draws them.

    Args:
      rows: of the scores, with `shard`, `index`, `offset`.
      shards: of the rows' source.
      folder: of the run, where its lists of images are.
      classifier: that scored them.
      settings: with which they were scored.
    """
    return [_picture(row, shards, folder, classifier, settings) for row in rows]


def _picture(
    row: dict[str, Any], shards: Sequence[Shard], folder: str, classifier: Classifier, settings: ScoreSettings
) -> Picture:
    try:
        pixels = _pixels(row, shards, folder, classifier, settings)
    except (errors.ImageError, errors.StorageError) as e:
        return Picture(row, problem=str(e))
    overlay = None
    if classifier.last_layer is not None and classifier.last_layer.has_maps:
        activations = classifier.activations(tf.constant(pixels[None]))
        heat = activation_map(activations.logits, activations.maps, activations.kernel)[0].numpy()
        overlay = data_uri(laid_over(pixels, heat))
    return Picture(row, data_uri(_thumbnail(pixels)), overlay)


def _pixels(
    row: dict[str, Any], shards: Sequence[Shard], folder: str, classifier: Classifier, settings: ScoreSettings
) -> np.ndarray:
    shard, record = read_back(row, shards, folder)
    parsed = shard.content.parse(record, settings.features)
    return shard.content.pixels(record, parsed, shard, classifier.input_shape, settings.geometry, settings.features)


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    grey = np.uint8(np.round(np.clip(pixels, 0, 1) * 255))
    image = Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey).convert("RGB")
    scale = _SIDE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # Small images keep their pixels, large ones are averaged.
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def laid_over(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """An image under its activation map, from 0 to the map's maximum; a map that is nowhere positive is all 0.

    Args:
      pixels: float32 [H, W, 1 or 3] in [0, 1].
      heat: float [h, w].
    """
    positive = np.maximum(np.nan_to_num(heat), 0)
    share = positive / positive.max() if positive.max() > 0 else positive
    below = _thumbnail(pixels)
    shown = Image.fromarray(np.float32(share)).resize(below.size, Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps[MAP_COLOURS](np.clip(np.asarray(shown), 0, 1), bytes=True)[..., :3]
    return Image.blend(below.convert("L").convert("RGB"), Image.fromarray(colours), _OVERLAY)


def data_uri(image: Image.Image) -> str:
    """The picture as a `data:` URI, which keeps the report in one file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
