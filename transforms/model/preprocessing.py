"""What a model was trained on, as a function of pixels in [0, 1]. Imports no TensorFlow until it is applied."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

CHANNEL_ORDERS = ("rgb", "bgr")
NAMED_PREPROCESSING = ("unit", "byte", "tf", "torch", "caffe")
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Preprocessing:
    """What the model was trained on, as a function of pixels in [0, 1].

        >>> odin_beam.Preprocessing("torch").channels()
        (3,)
        >>> odin_beam.Preprocessing("mean_std", mean=(0.5,), std=(0.25,)).channels()
        (1,)

    Attributes:
      name: `unit` [0, 1] unchanged; `byte` [0, 255]; `tf` [-1, 1]; `torch` ImageNet mean and std; `caffe` BGR bytes
        minus the ImageNet mean; `mean_std` the two below. Like `mode` in `keras.applications.imagenet_utils`.
      mean: per channel, in [0, 1] units; only with `mean_std`.
      std: per channel, in [0, 1] units, > 0; only with `mean_std`.
      channel_order: `rgb`, or `bgr` for a model that was trained on reversed channels, as OpenCV reads them; they are
        reversed before anything else.
    """

    name: str = "unit"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: str = "rgb"

    def __post_init__(self):
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order is one of {', '.join(CHANNEL_ORDERS)}, not {self.channel_order!r}")
        if self.name == "mean_std":
            if not self.mean or len(self.mean) != len(self.std):
                raise ValueError("mean and std need one number per channel each")
            if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
                raise ValueError("mean and std must be finite, and std above 0")
        elif self.name not in NAMED_PREPROCESSING:
            raise ValueError(f"preprocessing is one of {', '.join(NAMED_PREPROCESSING)}, not {self.name!r}")

    def channels(self) -> tuple[int, ...]:
        """The channel counts it is defined for."""
        if self.name == "mean_std":
            return (len(self.mean),)
        return (3,) if self.name in ("torch", "caffe") or self.channel_order == "bgr" else (1, 3)

    def reversed(self) -> "Preprocessing":
        """The same preprocessing with the channels reversed."""
        return replace(self, channel_order="rgb" if self.channel_order == "bgr" else "bgr")

    def apply(self, pixels: "tf.Tensor") -> "tf.Tensor":
        """float32 [N, H, W, C] in [0, 1] -> what the model expects, same shape and dtype."""
        import tensorflow as tf

        if self.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        match self.name:
            case "unit":
                return pixels
            case "byte":
                return pixels * 255.0
            case "tf":
                return pixels * 2.0 - 1.0
            case "torch":
                return (pixels - tf.constant(_TORCH_MEAN)) / tf.constant(_TORCH_STD)
            case "caffe":
                return pixels[..., ::-1] * 255.0 - tf.constant(_CAFFE_MEAN_BGR)
            case "mean_std":
                return (pixels - tf.constant(self.mean, tf.float32)) / tf.constant(self.std, tf.float32)
