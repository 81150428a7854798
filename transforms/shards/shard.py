"""What a shard is: the unit of work, of retry and of resume.

Some are files, TFRecords. The others are virtual: a range of a list of loose images, or of noise made on the spot. And
there are surrogates, the images of another shard altered.
"""

from dataclasses import dataclass

# Images of a virtual shard. Enough to keep a GPU busy for seconds, little to lose when a worker dies.
IMAGES_PER_SHARD = 2048


@dataclass(frozen=True)
class FeatureNames:
    """Names of the `tf.train.Example` features; the defaults are TensorFlow Datasets' own."""

    image: str = "image"
    label: str = "label"
    id: str = "id"


@dataclass(frozen=True)
class TFRecords:
    """A TFRecord file of `tf.train.Example`, gzip where its name ends in `.gz`.

    Attributes:
      features: their names, where the source itself fixes them; None for those of the settings.
    """

    features: FeatureNames | None = None


@dataclass(frozen=True)
class ImageList:
    """Consecutive rows of a list of image files, see `image_list`.

    Attributes:
      listing: path of the list, relative to the run's folder.
      first: position of the first row in the list.
      count: of rows.
      digest: SHA-256, in hex, of the rows.
    """

    listing: str
    first: int
    count: int
    digest: str


@dataclass(frozen=True)
class Noise:
    """Consecutive noise images, see `noise`.

    Attributes:
      distribution: `gaussian` or `uniform`.
      first: index of the first image.
      count: of images.
    """

    distribution: str
    first: int
    count: int


@dataclass(frozen=True)
class Surrogate:
    """Images of another shard, altered until they are foreign, see `surrogates`.

    Attributes:
      kind: how, one of `surrogates.KINDS`.
      of: what the images are, before they are altered.
    """

    kind: str
    of: TFRecords | ImageList | Noise


Content = TFRecords | ImageList | Noise | Surrogate


@dataclass(frozen=True)
class Shard:
    """One part of a source.

    Attributes:
      source: the source's NAME.
      role: `in_distribution`, `out_distribution`, `input` or `surrogate`.
      path: full path of the TFRecord file; of a virtual shard the pattern that it is a part of; of surrogates that of
        the shard whose images they are made of.
      size: bytes, as listed; 0 for a virtual shard.
      modified: seconds since the epoch, as listed; 0 for a virtual shard.
      output_name: base name of its scores file, unique within the source.
      content: what it consists of.
    """

    source: str
    role: str
    path: str
    size: int
    modified: float
    output_name: str
    content: Content = TFRecords()
