"""`odin-beam check`: is this model understood? Proven on your images, before hours are spent on scoring.

    odin-beam check --model classifier.keras --in_distribution 'shards/validation-*.tfrecord' --output model.json
    odin-beam score --model classifier.keras --model_config model.json ...

Labels decide: with them the preprocessing is chosen by accuracy, without them only a collapse can be seen.
"""

import io
import os
import tempfile
from dataclasses import asdict, replace

import numpy as np

from odin_beam.pipeline.flags.model_config import ModelConfig, write_model_config
from odin_beam.pipeline.flags.options import CheckOptions, UsageError, model_settings
from odin_beam.pipeline.launch import sources
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.show.contact_sheet import contact_sheet
from odin_beam.transforms.checking.expected_input import own_preprocessing
from odin_beam.transforms.checking.soundness import Soundness, gradient_share, measure_soundness
from odin_beam.transforms.checking.trials import (
    Trial,
    best,
    candidates,
    compiled,
    is_at_chance,
    is_collapsed,
    try_preprocessing,
)
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.passes import score_cells
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.sample_images import sample_images
from odin_beam.transforms.scoring.scorer import load_settings_classifier
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.storage import writing

IMAGES = 256
QUICK_IMAGES = 64
NO_GRADIENT = "no gradient reaches the pixels, so ODIN cannot perturb them: score with --epsilon 0"


def run(options: CheckOptions) -> int:
    """Says what the model is and what the images prove, writes model.json; gives the exit code.

    Raises:
      UsageError: the model cannot be used as given, or how to feed it cannot be decided.
    """
    try:
        settings = model_settings(options.arguments, options.model)
        classifier = load_settings_classifier(settings)
    except ClassifierError as e:
        raise UsageError(str(e)) from e
    found, own = own_preprocessing(classifier.model)
    print(describe(classifier, found))
    if not options.sources.patterns:
        print("\ngive --in_distribution images, with labels if possible, to see whether this is right")
        return 0
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        shards = sources.list_shards(options.sources, folder)
        pixels, labels = sample_images(shards, folder, settings, classifier.input_shape, IMAGES)
    if not len(pixels):
        raise UsageError("no image could be read from --in_distribution: see what `score` rejects and why")
    given = _given(options, settings)
    trials = _try_all(classifier, pixels, labels, own, given)
    print(f"\n{trials_table(trials, len(labels), int((labels >= 0).sum()))}")
    chosen = choose(trials, given, own, classifier.classes, labels)
    used = classifier.preprocessed(chosen.preprocessing)
    if not gradient_share(used, pixels, OdinSettings()):
        raise UsageError(NO_GRADIENT)
    print(f"\n{verdict(chosen, measure_soundness(used, pixels, OdinSettings()), classifier.classes, labels)}")
    if options.output:
        _write(options.output, replace(settings, preprocessing=chosen.preprocessing), used, chosen, pixels)
    return 0


def _given(options: CheckOptions, settings: ScoreSettings) -> Preprocessing | None:
    """The preprocessing that the command line spells out."""
    arguments = options.arguments
    spelled = arguments.preprocessing or arguments.mean or arguments.channel_order or arguments.model_config
    return settings.preprocessing if spelled else None


def _try_all(
    classifier: Classifier,
    pixels: np.ndarray,
    labels: np.ndarray,
    own: Preprocessing | None,
    given: Preprocessing | None,
) -> list[Trial]:
    tried, fast = candidates(classifier.input_shape[2], own, given), compiled(classifier)
    trials: list[Trial] = []
    with show_progress("checking", len(tried), "preprocessings", lambda: (len(trials), f"{len(trials)} tried")):
        for candidate in tried:
            trials.append(try_preprocessing(fast, candidate, pixels, labels))  # noqa: PERF401 - shown as it grows
        if classifier.input_shape[2] == 3 and (labels >= 0).any():
            # Reversed channels cost little accuracy, so they are compared where it is highest.
            reversed_ = best(trials, given or own).preprocessing.reversed()
            if reversed_ not in tried:
                trials.append(try_preprocessing(fast, reversed_, pixels, labels))
    return trials


def describe(classifier: Classifier, found: str | None) -> str:
    """What can be read off the model."""
    height, width, channels = classifier.input_shape
    return "\n".join(
        [
            f"input        {height} x {width} x {channels}",
            f"normalises   {found or 'no layer of its own'}",
            f"head         {classifier.head}, {classifier.classes} classes",
            f"dtype        {_dtype(classifier)}",
            f"maps         {_maps(classifier)}",
        ]
    )


def _dtype(classifier: Classifier) -> str:
    return f"saved as {classifier.saved_policy}, computes in float32" if classifier.saved_policy else "float32"


def _maps(classifier: Classifier) -> str:
    if classifier.last_layer is None or not classifier.last_layer.has_maps:
        return "none: activation maps need global average pooling followed by one dense layer"
    return f"{' x '.join(str(side or '?') for side in classifier.last_layer.map_shape)}, then pooled, then dense"


def trials_table(trials: list[Trial], images: int, labelled: int) -> str:
    """One line per preprocessing that was tried."""
    lines = [
        f"{images} images, {labelled} with labels:",
        "  preprocessing   accuracy   mean confidence   classes predicted",
    ]
    for trial in trials:
        accuracy = "-" if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %"
        lines.append(
            f"  {_name(trial.preprocessing):14}  {accuracy:>8}  {trial.confidence:16.3f}  {trial.spread:18.1f}"
        )
    return "\n".join(lines)


def _name(preprocessing: Preprocessing) -> str:
    name = "--mean --std" if preprocessing.name == "mean_std" else preprocessing.name
    return f"{name}, bgr" if preprocessing.channel_order == "bgr" else name


def _flags(preprocessing: Preprocessing) -> str:
    name = "--mean, --std as given" if preprocessing.name == "mean_std" else f"--preprocessing {preprocessing.name}"
    return f"{name} --channel_order bgr" if preprocessing.channel_order == "bgr" else name


def choose(
    trials: list[Trial],
    given: Preprocessing | None,
    own: Preprocessing | None,
    classes: int,
    labels: np.ndarray,
) -> Trial:
    """The preprocessing to use: the given one if it stands up, else the best on labels.

    Raises:
      UsageError: the given one is clearly worse than another; or none is given and there are no labels to choose by,
        or none under which they are predicted better than by chance.
    """
    top = best(trials, given or own) if (labels >= 0).any() else None
    if top is None or is_at_chance(top, classes):
        if given is None:
            why = "without labels" if top is None else "with accuracy at chance under every one"
            raise UsageError(f"{why} the preprocessing cannot be chosen: spell it out with --preprocessing")
        return next(trial for trial in trials if trial.preprocessing == given)
    if given is not None and top.preprocessing != given:
        worse = next(trial for trial in trials if trial.preprocessing == given)
        raise UsageError(
            f"preprocessing {_name(given)} gives {100 * worse.accuracy:.1f} % accuracy, {_name(top.preprocessing)} "
            f"{100 * top.accuracy:.1f} %: use {_flags(top.preprocessing)}"
        )
    return top


def verdict(chosen: Trial, soundness: Soundness, classes: int, labels: np.ndarray) -> str:
    """What to use, and what is doubtful about it."""
    lines = [f"preprocessing: {_name(chosen.preprocessing)}"]
    lines += warnings(chosen, classes, labels)
    if not soundness.repeatable:
        lines.append("WARNING: the same batch twice gives different logits: something random is left switched on")
    if soundness.alone_difference > 1e-4:
        lines.append(
            f"WARNING: an image alone and in a batch differ by {soundness.alone_difference:.1e}: batch statistics?"
        )
    if soundness.repeatable and soundness.alone_difference <= 1e-4:
        lines.append(
            "repeatable   the same batch twice to the bit; an image alone and in a batch differ by "
            f"{soundness.alone_difference:.0e} at most"
        )
    lines.append(f"gradient     reaches {100 * soundness.gradient_share:.0f} % of the pixels")
    if 0 < soundness.gradient_share < 0.5:
        lines.append("WARNING: most of the gradient is zero, so the perturbation will do little")
    hours = 1e6 / soundness.images_per_second / 3600
    lines.append(f"speed        {soundness.images_per_second:,.0f} images/s on this machine, {hours:.1f} h per million")
    return "\n".join(lines)


def warnings(trial: Trial, classes: int, labels: np.ndarray) -> list[str]:
    """What the predictions themselves say against the way the model is fed."""
    if is_collapsed(trial, classes, labels):
        return [
            f"WARNING: the predictions fall into {trial.spread:.1f} of {classes} classes: the preprocessing is "
            "probably wrong, however confident they are"
        ]
    if is_at_chance(trial, classes):
        return ["WARNING: accuracy is at chance while the predictions are spread: are the labels in another order?"]
    return []


def quick_check(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray, settings: ScoreSettings) -> list[str]:
    """The part of `check` that `score` runs first; gives warnings.

    Raises:
      UsageError: another preprocessing is clearly better on labelled images, or no gradient reaches the pixels.
    """
    _, own = own_preprocessing(classifier.model)
    given = classifier.preprocessing
    trials = _try_all(classifier, pixels, labels, own, given)
    chosen = choose(trials, given, own, classifier.classes, labels)
    cells = score_cells(settings.odin).values() if "odin" in settings.detectors else ()
    moving = next((cell for cell in cells if cell.epsilon > 0), None)
    if moving and not gradient_share(classifier, pixels, moving):
        raise UsageError(NO_GRADIENT)
    return warnings(chosen, classifier.classes, labels)


def _write(output: str, settings: ScoreSettings, classifier: Classifier, chosen: Trial, pixels: np.ndarray) -> None:
    height, width, channels = classifier.input_shape
    found = {
        "input_shape": [height, width, channels],
        "classes": classifier.classes,
        "head": classifier.head,
        "accuracy": chosen.accuracy,
        "images": len(pixels),
    }
    identity = settings.identity()
    preprocessing, geometry = asdict(settings.preprocessing), identity["geometry"]
    config = ModelConfig(settings.model_digest, preprocessing, geometry, settings.output_name, found)
    write_model_config(output, config)
    sheet = os.path.splitext(output)[0] + "-images.png"
    buffer = io.BytesIO()
    contact_sheet(classifier, pixels).save(buffer, "PNG")
    writing.write_bytes(sheet, buffer.getvalue())
    print(f"\n{output}: for --model_config\n{sheet}: the images as the model sees them")
