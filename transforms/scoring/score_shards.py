"""The DoFn that holds the classifier, and its transform: shards in, committed scores files out.

Images never leave the DoFn: it reads a shard, scores it batch by batch on the device, and publishes two Parquet
files. Reading and decoding run ahead in threads of their own while the device scores.
"""

import collections
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from odin_beam import transforms
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.odin import NoGradient
from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.detectors.passes import Passes, PassTimes
from odin_beam.transforms.detectors.score_function import Scored, ScoreFunction, joined
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.images import example
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.images.jpeg_batches import jpegs_at_once
from odin_beam.transforms.model import device
from odin_beam.transforms.model.classifier import Classifier, load_classifier
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.check_finished import CheckFinished, is_finished
from odin_beam.transforms.shards import records, shard_images
from odin_beam.transforms.shards.image_list import FETCHES_AT_ONCE
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.tables import score_table

# Batches read and decoded ahead of the device: enough to hide the decoding of an uneven batch, little enough memory.
BATCHES_AHEAD = 4
_LOG = logging.getLogger(__name__)
# Of an empty batch, which some layers would refuse.
_NONE = Scored({"prediction": np.empty(0, np.int32), "finite": np.empty(0, bool)}, Passes(0, 0))
Batch = TypeVar("Batch")
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ScoreSettings:
    """All that a score depends on, and the batch size.

    Attributes:
      model: path of the model file, on any file system.
      model_digest: SHA-256 of its content.
      preprocessing: what the model expects of its input.
      geometry: how images of another size are fitted.
      features: names of the Example's features.
      odin: temperature and epsilon, or a grid of them: then the rows have one column per cell in place of `odin`.
      detectors: those to compute, of `score_table.DETECTORS`; the other columns are null.
      precision: of `score_table.PRECISIONS`.
      output_name: which output of the model, where it has several.
      model_factory: `package.module:function` that makes the model of the file, where Keras alone cannot.
      batch_size: images scored at once; moves float32 logits by an ulp at most, so it is not in the fingerprint.
    """

    model: str
    model_digest: str
    preprocessing: Preprocessing = Preprocessing()
    geometry: Geometry = Geometry()
    features: FeatureNames = FeatureNames()
    odin: OdinSettings | OdinGrid = OdinSettings()
    detectors: tuple[str, ...] = score_table.DETECTORS
    precision: str = "float32"
    output_name: str | None = None
    model_factory: str | None = None
    batch_size: int = 64

    def __post_init__(self):
        unknown = sorted(set(self.detectors) - set(score_table.DETECTORS))
        if unknown or not self.detectors:
            raise ValueError(f"detectors are of {', '.join(score_table.DETECTORS)}, not {', '.join(unknown) or 'none'}")
        if self.precision not in score_table.PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(score_table.PRECISIONS)}, not {self.precision!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        if isinstance(self.odin, OdinGrid):
            return score_table.grid_schema(tuple(self.odin.cells))
        return score_table.SCORE_SCHEMA

    def identity(self) -> dict[str, Any]:
        """The settings that enter the fingerprint, as JSON-able values."""
        values = asdict(self)
        del values["model"], values["batch_size"]
        values["detectors"] = sorted(self.detectors)
        versions = {"schema_version": score_table.SCHEMA_VERSION, "code_version": transforms.__version__}
        return _json_able({**values, **versions})


def settings_of(launch: dict[str, Any]) -> ScoreSettings:
    """The settings of a run again, but for the batch size, from what its `run.json` says."""
    said = lists_to_tuples(launch["settings"])
    return ScoreSettings(
        launch["model"],
        said["model_digest"],
        Preprocessing(**said["preprocessing"]),
        Geometry(**said["geometry"]),
        FeatureNames(**said["features"]),
        (OdinGrid if "temperatures" in said["odin"] else OdinSettings)(**said["odin"]),
        said["detectors"],
        said["precision"],
        said["output_name"],
        said["model_factory"],
    )


def lists_to_tuples(value: Any) -> Any:
    """Fields of settings as they were before they went through JSON."""
    if isinstance(value, dict):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _json_able(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_able(item) for key, item in value.items()}
    return [_json_able(item) for item in value] if isinstance(value, tuple | list) else value


def load_settings_classifier(settings: ScoreSettings) -> Classifier:
    """The classifier that the settings name.

    Raises:
      model_file.ClassifierError: the model cannot be used.
    """
    return load_classifier(
        settings.model,
        settings.preprocessing,
        settings.geometry.image_size,
        settings.output_name,
        settings.model_factory,
    )


class ScoredBatch(NamedTuple):
    """What scoring a batch gave.

    Attributes:
      scored: the columns and passes.
      halved: how many times the batch had to be tried again in halves.
      microseconds: that the device was busy with it.
    """

    scored: Scored
    halved: int
    microseconds: int


class PixelBuffers:
    """Memory for the pixels of batches, used again: to be given it by the system takes a tenth of decoding a JPEG.

    Args:
      shape: of a whole batch.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free = collections.deque()

    def take(self) -> np.ndarray:
        """A float32 array of the shape, with anything in it."""
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self._shape, np.float32)

    def give_back(self, pixels: np.ndarray) -> None:
        """An array that was taken, and is not looked at any more."""
        self._free.append(pixels)


class OutOfMemory(Exception):
    """No batch is small enough for the device."""


class Scorer:
    """The classifier and its device: one per process, used by all of Beam's threads in turn.

    Args:
      settings: which model, and what to compute.

    Raises:
      model_file.ClassifierError: the model cannot be used.
    """

    def __init__(self, settings: ScoreSettings):
        started = time.monotonic()
        self._settings = settings
        self.classifier = load_settings_classifier(settings)
        self.load_milliseconds = int(1000 * (time.monotonic() - started))
        self.decoders = ThreadPoolExecutor(max(1, os.cpu_count() or 1), "decode")
        self.fetchers = ThreadPoolExecutor(FETCHES_AT_ONCE, "fetch")
        self.buffers = PixelBuffers((settings.batch_size, *self.classifier.input_shape))
        # Images that the device takes at once; halved where they exhaust its memory.
        self.batch_size = settings.batch_size
        # How far this process has come; written under the device's lock, read by whoever shows it.
        self.images = 0.0
        self._device = threading.Lock()
        try:
            self._score = ScoreFunction(
                self.classifier, settings.odin, settings.detectors, settings.precision, self.batch_size
            )
        except NoGradient as e:
            raise ClassifierError(f"{e}: score with --epsilon 0") from e

    def time_passes(self, pixels: np.ndarray) -> PassTimes:
        """How long a pass takes on this device; see `ScoreFunction.time_passes`."""
        with self._device:
            return self._score.time_passes(pixels)

    def on_device(self, pixels: np.ndarray) -> np.ndarray | tf.Tensor:
        """A batch as `score` takes it soonest: on a GPU it is copied there, while another one is being scored."""
        return tf.convert_to_tensor(pixels) if device.on_gpu() and len(pixels) else pixels

    def score(self, pixels: np.ndarray | tf.Tensor) -> ScoredBatch:
        """The columns of a batch; there are none of scores where N = 0.

        A batch that exhausts the device's memory is tried again in halves, and so are all that follow.

        Args:
          pixels: float32 [N, H, W, C] in [0, 1], N >= 0.

        Raises:
          OutOfMemory: a single image does.
        """
        with self._device:
            parts, taken, halved, started = [], 0, 0, time.monotonic()
            while taken < len(pixels):
                part = pixels[taken : taken + self.batch_size]
                try:
                    parts.append(self._score_part(part))
                    taken += len(part)
                except tf.errors.ResourceExhaustedError as e:
                    self._halve(len(part), e)
                    halved += 1
            scored = joined(parts) if parts else _NONE
            return ScoredBatch(scored, halved, round(1e6 * (time.monotonic() - started)))

    def _score_part(self, pixels: np.ndarray) -> Scored:
        before = self.images

        def advance(share: float) -> None:
            self.images += share * len(pixels)

        try:
            return self._score(pixels, advance)
        except tf.errors.ResourceExhaustedError:
            self.images = before
            raise

    def _halve(self, tried: int, error: Exception) -> None:
        if tried == 1:
            raise OutOfMemory("a single image exhausts the memory of the device that the model is on") from error
        if self.batch_size == self._settings.batch_size:
            _LOG.warning(
                "%d images at once exhaust the device's memory: going on with halves, give a smaller --batch_size",
                tried,
            )
        self.batch_size = self._score.batch_size = tried // 2


@dataclass
class DecodedBatch:
    """A batch between decoding and scoring: the rows that have pixels, and the rejects.

    Attributes:
      pixels: float32 [N, H, W, C] in [0, 1], in memory or on the device.
      rows: `index`, `offset`, `id`, `label` of each of the N.
      rejects: rows of `REJECT_SCHEMA` without `shard`.
      framed: records that it was made of.
    """

    pixels: np.ndarray | tf.Tensor
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    framed: int = 0


def decode_batch(
    batch: list[Record], shard: Shard, settings: ScoreSettings, input_shape: tuple[int, int, int], pixels: np.ndarray
) -> DecodedBatch:
    """Parses and decodes records; what gives no pixels becomes a reject, never an error.

    Args:
      batch: N records of the shard.
      shard: of any kind.
      settings: how to read them.
      input_shape: (H, W, C) of the classifier's input.
      pixels: float32 [N, H, W, C], or longer, to put the images into.
    """
    decoded, kept = DecodedBatch(pixels[: len(batch)], framed=len(batch)), []
    step = jpegs_at_once(input_shape)
    for start in range(0, len(batch), step):
        some, slots = batch[start : start + step], decoded.pixels[start : start + step]
        parsed = [_parsed(record, shard, settings.features) for record in some]
        good = [None if isinstance(one, errors.ImageError) else one for one in parsed]
        there = shard_images.decode_at_once(good, shard, settings.geometry, slots)
        for i, (record, one) in enumerate(zip(some, parsed, strict=True)):
            row = {"index": record.index, "offset": record.offset, "id": shard_images.default_id(record, shard)}
            try:
                if isinstance(one, errors.ImageError):
                    raise one
                row["id"] = one.id if one.id is not None else row["id"]
                if not there[i]:
                    shard_images.record_pixels(
                        record, one, shard, input_shape, settings.geometry, settings.features, slots[i]
                    )
                decoded.rows.append({**row, "label": one.label})
                kept.append(start + i)
            except errors.ImageError as e:
                decoded.rejects.append(_reject(row, e.reason, e.detail))
    if decoded.rejects:
        decoded.pixels = decoded.pixels[kept]
    return decoded


def _parsed(record: Record, shard: Shard, names: FeatureNames) -> example.ImageRecord | errors.ImageError:
    """What a record says, or what is wrong with it."""
    if record.problem:
        return errors.ImageError(*record.problem)
    try:
        return shard_images.parse_record(record, shard, names)
    except errors.ImageError as e:
        return e


def _reject(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return {"index": row["index"], "offset": row["offset"], "id": row["id"], "reason": reason, "detail": detail}


def work_ahead(
    batches: Iterator[Batch], decode: Callable[[Batch], Decoded], decoders: ThreadPoolExecutor, depth: int
) -> Iterator[Decoded]:
    """Yields `decode(batch)` in order, while up to `depth` batches are being read and decoded in the background.

    Errors of reading and decoding are raised here, in the caller's thread, where the batch would have come.
    """
    with ThreadPoolExecutor(1, "read") as reader:

        def read():
            batch = next(batches, None)
            return None if batch is None else decoders.submit(decode, batch)

        pending = collections.deque(reader.submit(read) for _ in range(depth))
        try:
            while (decoding := pending.popleft().result()) is not None:
                pending.append(reader.submit(read))
                yield decoding.result()
        finally:
            reader.shutdown(cancel_futures=True)


def score_rows(
    shard: Shard, decoded: DecodedBatch, columns: dict[str, np.ndarray], schema: pa.Schema
) -> pa.RecordBatch:
    """The finite rows of a scored batch, in the order of the shard; columns that there are no scores of are null."""
    finite = columns["finite"]
    rows = [row for row, good in zip(decoded.rows, finite, strict=True) if good]
    arrays = {name: [row[name] for row in rows] for name in ("index", "offset", "id", "label")}
    arrays["shard"] = [shard.path] * len(rows)
    return pa.record_batch(
        [
            pa.array(arrays[column.name], column.type)
            if column.name in arrays
            else _score_column(columns.get(column.name), finite, column.type)
            for column in schema
        ],
        schema=schema,
    )


def _score_column(column: np.ndarray | None, finite: np.ndarray, dtype: pa.DataType) -> pa.Array:
    if column is None:
        return pa.nulls(int(finite.sum()), dtype)
    values = pa.array(column[finite]).cast(dtype).to_numpy()
    # A score beyond what its column holds is none: infinity has no place in a ranking.
    return pa.array(values, dtype, mask=~np.isfinite(values))


def score_shard(shard: Shard, scorer: Scorer, settings: ScoreSettings, output: str) -> score_table.Commit:
    """Scores one shard and commits it; the in-memory heart of the job.

    Raises:
      errors.StorageError: the shard cannot be read, or is not the file that was listed.
      score_table.OutputError: the output cannot be written.
    """
    input_shape = scorer.classifier.input_shape

    def decode(batch: list[Record]) -> tuple[DecodedBatch, np.ndarray]:
        buffer = scorer.buffers.take()
        decoded = decode_batch(batch, shard, settings, input_shape, buffer)
        return replace(decoded, pixels=scorer.on_device(decoded.pixels)), buffer

    framed = 0
    batches = records.batches(shard_images.read_records(shard, output, scorer.fetchers), settings.batch_size)
    with score_table.ShardWriter(output, shard, settings.schema) as writer:
        for decoded, buffer in work_ahead(batches, decode, scorer.decoders, BATCHES_AHEAD):
            (columns, passes), halved, microseconds = scorer.score(decoded.pixels)
            scorer.buffers.give_back(buffer)
            rejects = decoded.rejects + [
                _reject(row, "non_finite_logits", "the classifier gives NaN or infinity for this image")
                for row, good in zip(decoded.rows, columns["finite"], strict=True)
                if not good
            ]
            writer.write(
                score_rows(shard, decoded, columns, settings.schema), sorted(rejects, key=lambda r: r["index"])
            )
            framed += decoded.framed
            _count("num_inferences", len(decoded.pixels))
            _count("forward_passes", passes.forward)
            _count("gradient_passes", passes.gradient)
            _count("batches_halved", halved)
            _count("images_rejected", len(rejects))
            if len(decoded.pixels):
                _observe("inference_request_batch_size", len(decoded.pixels))
                _observe("inference_batch_latency_micro_secs", microseconds)
        identity = settings.identity()
        return writer.commit(score_table.fingerprint(identity, shard), framed, scorer.classifier.head, identity)


# Named as those of Beam's RunInference where they mean the same. They are for watching a run: a bundle that is tried
# again counts again.
def _count(name: str, n: int = 1) -> None:
    Metrics.counter("ScoreShards", name).inc(n)


def _observe(name: str, value: int) -> None:
    Metrics.distribution("ScoreShards", name).update(value)


class ScoreShard(beam.DoFn):
    """Scores each shard with the process's one classifier; gives it to `finished` or, with the reason, to `failed`.

    The classifier is loaded when the first shard arrives, so that a run with nothing to do loads none.
    """

    def __init__(self, settings: ScoreSettings, output: str, shared: Shared, launcher_version: str):
        self._settings = settings
        self._output = output
        self._shared = shared
        self._launcher_version = launcher_version
        self._scorer = None

    def setup(self):
        if self._launcher_version != transforms.__version__:
            raise RuntimeError(
                f"the worker's image has odin-beam {transforms.__version__}, the launcher {self._launcher_version}: "
                "build the image from the launcher's version"
            )

    def _load(self) -> Scorer:
        """The classifier that was launched; another one's scores must not be committed under its fingerprint."""
        settings = self._settings
        if model_digest(settings.model, any_file=settings.model_factory is not None) != settings.model_digest:
            raise ClassifierError(f"model {settings.model} has changed since the run was launched")
        return Scorer(settings)

    def process(self, shard: Shard):
        if is_finished(shard, self._output, self._settings.identity()):
            _count("shards_skipped")
            yield beam.pvalue.TaggedOutput("finished", shard)
            return
        if self._scorer is None:
            self._scorer = self._shared.acquire(self._load)
            _observe("load_model_latency_milli_secs", self._scorer.load_milliseconds)
        try:
            score_shard(shard, self._scorer, self._settings, self._output)
        except errors.StorageError as e:
            _count("shards_failed")
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
        else:
            _count("shards_finished")
            yield beam.pvalue.TaggedOutput("finished", shard)


@dataclass
class ScoreShards(beam.PTransform):
    """`Shard`s -> {`finished`: `Shard`s with a committed scores file, `failed`: (`Shard`, reason)}.

    Args:
      settings: what to compute.
      output: absolute path of the run's folder.
      shared: handle of the process's one `Scorer`; a launcher that holds one already hands its handle over.
      accelerator: resource hint of the one step that scores, such as
        `type:nvidia-tesla-t4;count:1;install-nvidia-driver`; runners that know no hints ignore it.
    """

    settings: ScoreSettings
    output: str
    shared: Shared = field(default_factory=Shared)
    accelerator: str | None = None

    def expand(self, shards: beam.PCollection[Shard]) -> dict[str, beam.PCollection]:
        checked = shards | CheckFinished(self.output, self.settings.identity())
        score = beam.ParDo(ScoreShard(self.settings, self.output, self.shared, transforms.__version__))
        if self.accelerator:
            score = score.with_resource_hints(accelerator=self.accelerator)
        scored = (
            checked.todo
            # Only now, when finished shards are out, is there a balance to strike.
            | "Balance" >> beam.Reshuffle()
            | "ScoreShard" >> score.with_outputs("finished", "failed")
        )
        finished = (checked.finished, scored.finished) | "Finished" >> beam.Flatten()
        return {"finished": finished, "failed": scored.failed}
