"""`odin-beam check`: is the model fed correctly? Tested on your images, before hours are spent on scoring.

    odin-beam check --model classifier.keras --in_distribution 'shards/validation-*.tfrecord' --output model.json
    odin-beam score --model classifier.keras --model_config model.json ...

With `--images N` it also says what an archive of that size costs: docs/cost.md.

With labels the preprocessing is chosen by accuracy; without them only collapsed predictions can be detected.
"""

import io
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.check import CheckOptions
from odin_beam.pipeline.flags.model import model_settings
from odin_beam.pipeline.flags.model_json import ModelConfig, write_model_config
from odin_beam.pipeline.launch import sources
from odin_beam.pipeline.launch.class_names import find_class_names
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.next_step import after_check
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import writing

if TYPE_CHECKING:
    from odin_beam.transforms.checking.trials import Trial
    from odin_beam.transforms.model.classifier import Classifier

SAMPLED = 256


def run(options: CheckOptions) -> int:
    """Prints what the model is and what the images show, writes model.json; returns the exit code.

    Raises:
      UsageError: the model cannot be used as given, or how to feed it cannot be decided.
    """
    settings = model_settings(options.arguments)
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        shards = sources.list_shards(options.sources, folder)
        import_tensorflow()
        return _check(options, settings, shards, folder)


def _check(options: CheckOptions, settings: ScoreSettings, shards: Sequence[Shard], folder: str) -> int:
    from odin_beam.pipeline.launch import quick_check
    from odin_beam.pipeline.launch.first_look import converted_colours, missing_labels
    from odin_beam.pipeline.show.check_text import describe, trials_table, verdict
    from odin_beam.pipeline.show.cost_text import here
    from odin_beam.transforms.checking.decoding_rate import decoded_per_second
    from odin_beam.transforms.checking.expected_input import own_preprocessing
    from odin_beam.transforms.checking.soundness import measure_soundness
    from odin_beam.transforms.detectors.odin import NoGradient
    from odin_beam.transforms.detectors.odin_settings import OdinSettings
    from odin_beam.transforms.scoring.sample_images import sample_images
    from odin_beam.transforms.scoring.scorer import load_settings_classifier

    try:
        classifier = load_settings_classifier(settings)
    except ClassifierError as e:
        raise UsageError(str(e)) from e
    found, own = own_preprocessing(classifier.model)
    print(describe(classifier, found))
    if not shards:
        if options.images:
            print(f"\n{_on_dataflow(options.images, classifier, None)}")
        print("\nto check the preprocessing, give --in_distribution images, with labels if possible")
        return 0
    pixels, labels = sample_images(shards, folder, settings, classifier.input_shape, SAMPLED)
    if not len(pixels):
        raise UsageError("no image could be read from --in_distribution: run `score` to see the reasons")
    if line := converted_colours(shards, folder, settings.features, classifier.input_shape):
        print(line, file=sys.stderr)
    for line in missing_labels(shards, folder, settings.features):
        print(line, file=sys.stderr)
    given = _given(options, settings)
    trials = quick_check.try_all(classifier, pixels, labels, own, given)
    print(f"\n{trials_table(trials, len(labels), int((labels >= 0).sum()))}")
    chosen = quick_check.choose(trials, given, own, classifier.classes, labels)
    used = classifier.preprocessed(chosen.preprocessing)
    try:
        soundness = measure_soundness(used, pixels, OdinSettings())
    except NoGradient as e:
        raise UsageError(quick_check.NO_GRADIENT) from e
    warnings = quick_check.warnings(chosen, classifier.classes, labels, (found, own))
    print(f"\n{verdict(chosen, soundness, warnings)}")
    if options.images:
        decoded = decoded_per_second(shards, folder, settings, classifier.input_shape, SAMPLED)
        print(f"\n{here(options.images, soundness)}\n{_on_dataflow(options.images, used, decoded)}")
    if options.output:
        labels_fit = quick_check.labels_fit(chosen, classifier.classes, labels)
        names = find_class_names(options.arguments, shards).of_model(classifier.classes, labels_fit)
        _write(options.output, replace(settings, preprocessing=chosen.preprocessing), used, chosen, pixels, names)
    print(f"\n{after_check(options.arguments)}")
    return 0


def _on_dataflow(images: int, classifier: "Classifier", decoded: float | None) -> str:
    """Hours and dollars on paper; or why there are none."""
    from odin_beam.pipeline.show.cost_text import on_dataflow
    from odin_beam.transforms.checking.dataflow_cost import Load
    from odin_beam.transforms.checking.pass_work import NotCountable, pass_work
    from odin_beam.transforms.detectors.odin_settings import OdinSettings
    from odin_beam.transforms.detectors.passes import expected_passes

    try:
        work = pass_work(classifier)
    except NotCountable as e:
        return f"  Dataflow: no estimate, since {e}"
    settings = OdinSettings(), OdinSettings(epsilon=0.0)
    loads = [Load.of_passes("", work, sum(expected_passes(one)), decoded) for one in settings]
    return on_dataflow(images, *loads)


def _given(options: CheckOptions, settings: ScoreSettings) -> Preprocessing | None:
    """The preprocessing that the command line gives."""
    arguments = options.arguments
    spelled = arguments.preprocessing or arguments.mean or arguments.channel_order or arguments.model_config
    return settings.preprocessing if spelled else None


def _write(
    output: str,
    settings: ScoreSettings,
    classifier: "Classifier",
    chosen: "Trial",
    pixels: np.ndarray,
    names: Sequence[str] | None,
) -> None:
    from odin_beam.pipeline.show.contact_sheet import contact_sheet

    height, width, channels = classifier.input_shape
    found = {
        "input_shape": [height, width, channels],
        "classes": classifier.classes,
        "head": classifier.head,
        "accuracy": chosen.accuracy,
        "images": len(pixels),
        "class_names": names,
    }
    config = ModelConfig(settings.model_digest, settings.preprocessing, settings.geometry, settings.output_name, found)
    write_model_config(output, config)
    sheet = os.path.splitext(output)[0] + "-images.png"
    buffer = io.BytesIO()
    contact_sheet(classifier, pixels).save(buffer, "PNG")
    writing.write_bytes(sheet, buffer.getvalue())
    print(f"\n{output}: for --model_config\n{sheet}: the images as the model receives them")
