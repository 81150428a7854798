"""What a shard is: the unit of work, of retry and of resume.

Some shards are TFRecord files. Others are virtual: a range of a list of loose images, or of generated noise. A third
kind are surrogates, the altered images of another shard.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odin_beam.transforms.shards.contents.content import Content

# Images in a virtual shard: enough to keep a GPU busy for seconds, few enough to lose when a worker dies.
IMAGES_PER_SHARD = 2048


@dataclass(frozen=True)
class FeatureNames:
    """Names of the `tf.train.Example` features; the defaults are TensorFlow Datasets' own.

    >>> odin_beam.FeatureNames(image="jpeg")
    FeatureNames(image='jpeg', label='label', id='id')
    """

    image: str = "image"
    label: str = "label"
    id: str = "id"


@dataclass(frozen=True)
class Shard:
    """One part of a source.

        >>> from odin_beam.transforms.shards.contents.tfrecords import TFRecords
        >>> shard = odin_beam.Shard("photos", "input", "/data/a.tfrecord", 1000, 0.0, "a-0.parquet", TFRecords())
        >>> shard.source
        'photos'

    Attributes:
      source: the source's NAME.
      role: `in_distribution`, `out_distribution`, `input` or `surrogate`.
      path: full path of the TFRecord file; for a virtual shard, the pattern that it is part of; for surrogates, the
        path of the shard with the original images.
      size: bytes, as listed; 0 for a virtual shard.
      modified: seconds since the epoch, as listed; 0 for a virtual shard.
      file_name: base name of its scores file, unique within the source.
      content: what the shard consists of.
    """

    source: str
    role: str
    path: str
    size: int
    modified: float
    file_name: str
    content: "Content"
