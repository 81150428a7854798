"""The report's pictures of images: read back by shard and offset, with the class activation map laid over them."""

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from odin_beam.pipeline.show.report_figures import MAP_COLOURS
from odin_beam.pipeline.show.scaled_image import scaled_image
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.features import activation_map
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.ranking.originals import original_pixels
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.read_back import read_back
from odin_beam.transforms.shards.shard import Shard

# Pixels of the longer side, and bytes of the JPEG: a page of `report_selection.MOST` images stays below 6 MB.
_SIDE, _MAX_BYTES = 224, 14_000
_QUALITIES = (85, 70, 50, 30)
_OVERLAY = 0.5
# Images read back at once: most of the time is latency.
_FETCHERS = 8


@dataclass(frozen=True)
class Picture:
    """One image of a gallery.

    Attributes:
      image: `data:` URI; None if the image is no longer available.
      overlay: as the classifier receives it, with the activation map of the predicted class; None where there is none.
      problem: why there is no image.
      enlarged: whether every pixel of the image became a square of several.
    """

    image: str | None = None
    overlay: str | None = None
    problem: str | None = None
    enlarged: bool = False


def row_key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    """Which image a row is of: source, shard, index."""
    return row["source"], row["shard"], row["index"]


def make_pictures(
    rows: Sequence[Mapping[str, Any]],
    shards: Sequence[Shard],
    folder: str,
    classifier: Classifier | None,
    settings: ScoreSettings,
) -> dict[tuple[str, str, int], Picture]:
    """Reads the images of some rows back and draws them.

    Args:
      rows: of `report/data.json`; a row may occur several times.
      shards: of the run.
      folder: of the run, where its lists of images are.
      classifier: that scored them, for the activation maps and for noise; None where it is gone.
      settings: with which they were scored.

    Returns:
      `row_key` -> picture.
    """
    distinct = {row_key(row): row for row in rows}
    sources = {row["source"] for row in distinct.values()}
    of_source = {source: [shard for shard in shards if shard.source == source] for source in sources}
    with ThreadPoolExecutor(_FETCHERS) as fetchers:
        drawn = fetchers.map(
            lambda row: _picture(row, of_source[row["source"]], folder, classifier, settings), distinct.values()
        )
        return dict(zip(distinct, drawn, strict=True))


def _picture(
    row: Mapping[str, Any],
    shards: Sequence[Shard],
    folder: str,
    classifier: Classifier | None,
    settings: ScoreSettings,
) -> Picture:
    try:
        shard, record = read_back(row, shards, folder)
        parsed = shard.content.parse(record, settings.features)
        seen = None
        if classifier is not None:
            seen = shard.content.pixels(
                record, parsed, shard, classifier.input_shape, settings.geometry, settings.features
            )
        if parsed.image:
            pixels = original_pixels(parsed)
        elif seen is None:
            return Picture(problem=f"{row['id']} is noise, which no file contains")
        else:
            pixels = _bytes_of(seen)
    except (errors.ImageError, errors.StorageError) as e:
        return Picture(problem=str(e))
    overlay = None
    if seen is not None and classifier.last_layer is not None and classifier.last_layer.has_maps:
        activations = classifier.activations(tf.constant(seen[None]))
        heat = activation_map(activations.logits, activations.maps, activations.kernel)[0].numpy()
        overlay = data_uri(laid_over(seen, heat))
    return Picture(data_uri(scaled_image(pixels, _SIDE)), overlay, enlarged=max(pixels.shape[:2]) <= _SIDE // 2)


def _bytes_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 of float32 in [0, 1], of the same shape."""
    return np.uint8(np.round(np.clip(pixels, 0, 1) * 255))


def laid_over(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """An image under its activation map, from 0 to the map's maximum; a map that is nowhere positive is all 0.

    Args:
      pixels: float32 [H, W, 1 or 3] in [0, 1].
      heat: float [h, w].
    """
    positive = np.maximum(np.nan_to_num(heat), 0)
    share = positive / positive.max() if positive.max() > 0 else positive
    below = scaled_image(_bytes_of(pixels), _SIDE)
    shown = Image.fromarray(np.float32(share)).resize(below.size, Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps[MAP_COLOURS](np.clip(np.asarray(shown), 0, 1), bytes=True)[..., :3]
    return Image.blend(below.convert("L").convert("RGB"), Image.fromarray(colours), _OVERLAY)


def data_uri(image: Image.Image) -> str:
    """The picture as a `data:` URI, which keeps the report in one file; at most `_MAX_BYTES` before its encoding.

    What JPEG cannot hold in so many bytes, such as noise, is shown coarser, and in the end smaller.
    """
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= _MAX_BYTES:
                return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        image = image.resize([max(1, side // 2) for side in image.size], Image.Resampling.LANCZOS)
