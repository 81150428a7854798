"""Images as folders and archives, runs of `ingest` on them, and what these leave."""

import csv
import io
import tarfile
import zipfile
from pathlib import Path

import tensorflow as tf

from odin_beam.pipeline.main import main
from tests.helpers import samples

PNGS = [samples.encoded(image) for image in samples.random_images(12, seed=5)]

JPEG = samples.encoded(samples.random_images(1, seed=6)[0], "JPEG")

# Written in an order that is not theirs.
FILES = {
    "dog/b.png": PNGS[0],
    "dog/a.png": PNGS[1],
    "cat/z.jpg": JPEG,
    "cat/y.png": PNGS[2],
    "bird/deep/owl/1.png": PNGS[3],
    "top.png": PNGS[4],
}

# Their folders do not look like classes.
FOLDERS = "--labels=folders"
LABELS = {"cat": 0, "dog": 1, "owl": 2}


def folder(root, files=FILES):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zip_file(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_file(path, files=FILES, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def ingest(images, output, shards=2, *more):
    images = ",".join(map(str, images)) if isinstance(images, list | tuple) else str(images)
    return main(["ingest", f"--images={images}", f"--output={output}", f"--shards={shards}", *more])


def shard_paths(prefix):
    return sorted(str(path) for path in Path(prefix).parent.glob(f"{Path(prefix).name}-*.tfrecord"))


def written(prefix):
    """[(id, label or None, image)] as TensorFlow reads the shards, in order."""
    rows = []
    for payload in tf.data.TFRecordDataset(shard_paths(prefix)).as_numpy_iterator():
        features = tf.train.Example.FromString(payload).features.feature
        assert set(features) <= {"image", "label", "id", "image/uri"}
        label = features["label"].int64_list.value[0] if "label" in features else None
        rows.append((features["id"].bytes_list.value[0].decode(), label, features["image"].bytes_list.value[0]))
    return rows


def uris(prefix):
    """The place that each image came from, in the order of `written`."""
    payloads = tf.data.TFRecordDataset(shard_paths(prefix)).as_numpy_iterator()
    examples = map(tf.train.Example.FromString, payloads)
    return [example.features.feature["image/uri"].bytes_list.value[0].decode() for example in examples]


def ids(prefix):
    return [row[0] for row in written(prefix)]


def rejected(prefix):
    """{id: reason} of the table of rejects."""
    with open(f"{prefix}-rejected.csv", newline="", encoding="utf-8") as lines:
        return {row["id"]: row["reason"] for row in csv.DictReader(lines)}


def names(root):
    return sorted(path.name for path in Path(root).iterdir())


def usage_error(capsys):
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


EXPECTED = [
    ("bird/deep/owl/1.png", 2, PNGS[3]),
    ("cat/y.png", 0, PNGS[2]),
    ("cat/z.jpg", 0, JPEG),
    ("dog/a.png", 1, PNGS[1]),
    ("dog/b.png", 1, PNGS[0]),
    ("top.png", None, PNGS[4]),
]
