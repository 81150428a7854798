"""The DoFn that holds the classifier, and its transform from shards to committed scores files.

Images never leave the DoFn: it reads a shard, scores it batch by batch on the device, and publishes two Parquet
files. Separate threads read and decode ahead while the device scores.
"""

from dataclasses import dataclass, field, replace

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from odin_beam.transforms import __version__, errors
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring.batches import DecodedBatch, decode_batch, non_finite, reject_row, work_ahead
from odin_beam.transforms.scoring.check_finished import CheckFinished, is_finished
from odin_beam.transforms.scoring.rows import score_rows
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards import records
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import run_file, schemas, scores_file

# Batches read and decoded ahead of the device: enough to absorb a slow batch, without using much memory.
BATCHES_AHEAD = 4


def score_shard(shard: Shard, scorer: Scorer, settings: ScoreSettings, output: str) -> scores_file.Commit:
    """Scores one shard and commits it; the in-memory heart of the job.

    Raises:
      errors.StorageError: the shard cannot be read, or has changed since it was listed.
      errors.OutputError: the output cannot be written.
      errors.OutputTakenError: it belongs to a run with other settings by now.
    """
    input_shape = scorer.classifier.input_shape

    def decode(batch: list[Record]) -> tuple[DecodedBatch, np.ndarray]:
        buffer = scorer.buffers.take()
        decoded = decode_batch(batch, shard, settings, input_shape, buffer)
        return replace(decoded, pixels=scorer.on_device(decoded.pixels)), buffer

    kept = None
    if settings.kept_features is not None:
        kept = schemas.features_schema(scorer.classifier.last_layer.kernel.shape[0], settings.kept_features)
    names = None if settings.class_names is None else pa.array(settings.class_names, pa.string())
    framed, leave_class_out = 0, shard.content.leaves_class_out()
    batches = records.batches(shard.content.read(shard, output, scorer.fetchers), settings.batch_size)
    with scores_file.ScoresWriter(output, shard, settings.schema, settings.table, kept) as writer:
        for decoded, buffer in work_ahead(batches, decode, scorer.decoders, BATCHES_AHEAD):
            (columns, passes), halved, microseconds = scorer.score(decoded.pixels, leave_class_out)
            scorer.buffers.give_back(buffer)
            rejects = decoded.rejects + [
                reject_row(row, *non_finite())
                for row, good in zip(decoded.rows, columns["finite"], strict=True)
                if not good
            ]
            writer.write(
                score_rows(shard, decoded, columns, settings.schema, names),
                sorted(rejects, key=lambda r: r["index"]),
                None if kept is None else score_rows(shard, decoded, columns, kept),
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
        # The output may have been given to another run since, which overwrites it.
        run_file.check_owner(output, identity)
        return writer.commit(scores_file.fingerprint(identity, shard), framed, scorer.classifier.head, identity)


# The names are those of Beam's RunInference where the meaning is the same. They are for monitoring: a retried bundle
# counts again.
def _count(name: str, n: int = 1) -> None:
    Metrics.counter("ScoreShards", name).inc(n)


def _observe(name: str, value: int) -> None:
    Metrics.distribution("ScoreShards", name).update(value)


class ScoreShard(beam.DoFn):
    """Scores each shard with the process's classifier; sends it to `finished` or, with the reason, to `failed`.

    The classifier is loaded when the first shard arrives, so a run with nothing to do does not load it.
    """

    def __init__(self, settings: ScoreSettings, output: str, shared: Shared, launcher_version: str):
        self._settings = settings
        self._output = output
        self._shared = shared
        self._launcher_version = launcher_version
        self._scorer = None

    def setup(self):
        if self._launcher_version != __version__:
            raise RuntimeError(
                f"the worker's image has odin-beam {__version__}, the launcher {self._launcher_version}: "
                "build the image from the launcher's version"
            )

    def _load(self) -> Scorer:
        """Loads the classifier; if its file has changed, scores must not be committed under the old fingerprint."""
        settings = self._settings
        if model_digest(settings.model, any_file=settings.model_factory is not None) != settings.model_digest:
            raise ClassifierError(f"model {settings.model} has changed since the run was launched")
        return Scorer(settings)

    def _score(self, shard: Shard) -> None:
        score_shard(shard, self._scorer, self._settings, self._output)

    def process(self, shard: Shard):
        if is_finished(shard, self._output, self._settings.identity(), self._settings.tables):
            _count("shards_skipped")
            yield beam.pvalue.TaggedOutput("finished", shard)
            return
        if self._scorer is None:
            self._scorer = self._shared.acquire(self._load)
            _observe("load_model_latency_milli_secs", self._scorer.load_milliseconds)
        try:
            self._score(shard)
        except errors.StorageError as e:
            _count("shards_failed")
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
        else:
            _count("shards_finished")
            yield beam.pvalue.TaggedOutput("finished", shard)


@dataclass
class ScoreShards(beam.PTransform):
    """`Shard`s -> {`finished`: `Shard`s with a committed scores file, `failed`: (`Shard`, reason)}.

        >>> settings = odin_beam.ScoreSettings.for_model("classifier.keras")
        >>> score = odin_beam.ScoreShards(settings, "/data/scores")

    Args:
      settings: what to compute.
      output: absolute path of the run's folder.
      shared: handle of the process's only `Scorer`; a launcher that already has one passes its handle.
      accelerator: resource hint for the scoring step, such as
        `type:nvidia-tesla-t4;count:1;install-nvidia-driver`; runners without hints ignore it.
    """

    settings: ScoreSettings
    output: str
    shared: Shared = field(default_factory=Shared)
    accelerator: str | None = None

    def step(self) -> ScoreShard:
        """What scores one shard."""
        return ScoreShard(self.settings, self.output, self.shared, __version__)

    def expand(self, shards: beam.PCollection[Shard]):
        run_file.claim(self.output, self.settings)
        checked = shards | CheckFinished(self.output, self.settings.identity(), self.settings.tables)
        score = beam.ParDo(self.step())
        if self.accelerator:
            score = score.with_resource_hints(accelerator=self.accelerator)
        scored = (
            checked.todo
            # Balance only now, after finished shards have been removed.
            | "Balance" >> beam.Reshuffle()
            | "ScoreShard" >> score.with_outputs("finished", "failed")
        )
        finished = (checked.finished, scored.finished) | "Finished" >> beam.Flatten()
        return {"finished": finished, "failed": scored.failed}
