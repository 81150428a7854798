"""The real images of the independent reference figures."""

import io
import tarfile

import numpy as np
from PIL import Image

from tests.helpers.samples import real


def cifar10(count: int) -> np.ndarray:
    """The first test images, float32 [count, 32, 32, 3] in [0, 1]."""
    with np.load(real("cifar10_test.npz")) as arrays:
        return arrays["x"][:count].astype(np.float32) / np.float32(255)


def tiny_imagenet(count: int) -> np.ndarray:
    """`0.png` to `COUNT-1.png`, centre-cropped from 36 to 32; float32 [count, 32, 32, 3] in [0, 1]."""
    with tarfile.open(real("tiny_imagenet_crop.tar")) as archive:
        members = {member.name.rpartition("/")[2]: member for member in archive if member.isfile()}
        files = [archive.extractfile(members[f"{i}.png"]).read() for i in range(count)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])
    return images[:, 2:34, 2:34].astype(np.float32) / np.float32(255)
