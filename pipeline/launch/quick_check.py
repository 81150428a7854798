"""Which preprocessing is right, tried on a few images: thoroughly by `check`, briefly by every run that scores."""

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.transforms.checking.expected_input import own_preprocessing
from odin_beam.transforms.checking.soundness import gradient_share
from odin_beam.transforms.checking.trials import (
    Trial,
    best,
    candidates,
    compiled,
    is_at_chance,
    is_collapsed,
    is_shifted,
    try_preprocessing,
)
from odin_beam.transforms.detectors.passes import score_cells
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings

# Images that a scoring run looks at.
IMAGES = 64
NO_GRADIENT = "no gradient reaches the pixels, so ODIN cannot perturb them: score with --epsilon 0"


def quick_check(classifier: Classifier, pixels: np.ndarray, labels: np.ndarray, settings: ScoreSettings) -> list[str]:
    """The part of `check` that `score` runs first; gives warnings.

    Raises:
      UsageError: another preprocessing is clearly better on labelled images, or no gradient reaches the pixels.
    """
    _, own = own_preprocessing(classifier.model)
    given = classifier.preprocessing
    trials = try_all(classifier, pixels, labels, own, given)
    chosen = choose(trials, given, own, classifier.classes, labels)
    cells = score_cells(settings.odin).values() if "odin" in settings.detectors else ()
    moving = next((cell for cell in cells if cell.epsilon > 0), None)
    if moving and not gradient_share(classifier, pixels, moving):
        raise UsageError(NO_GRADIENT)
    return warnings(chosen, classifier.classes, labels)


def try_all(
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
            # Reversed channels cost little accuracy, so they are tried with the most accurate preprocessing only.
            reversed_ = best(trials, given or own).preprocessing.reversed()
            if reversed_ not in tried:
                trials.append(try_preprocessing(fast, reversed_, pixels, labels))
    return trials


def choose(
    trials: list[Trial],
    given: Preprocessing | None,
    own: Preprocessing | None,
    classes: int,
    labels: np.ndarray,
) -> Trial:
    """The preprocessing to use: the given one unless another is clearly better, else the one of highest accuracy.

    Raises:
      UsageError: the given one is clearly worse than another; or none is given and there are no labels to choose by,
        or none under which they are predicted better than by chance.
    """
    top = best(trials, given or own) if (labels >= 0).any() else None
    if top is None or is_at_chance(top, classes):
        if given is None:
            chance = labels_beyond(labels, classes) or "accuracy is at chance under every one"
            why = "there are no labels" if top is None else chance
            raise UsageError(f"the preprocessing cannot be chosen because {why}: give --preprocessing")
        return next(trial for trial in trials if trial.preprocessing == given)
    if given is not None and top.preprocessing != given:
        worse = next(trial for trial in trials if trial.preprocessing == given)
        raise UsageError(
            f"preprocessing {name(given)} gives {100 * worse.accuracy:.1f} % accuracy, {name(top.preprocessing)} "
            f"{100 * top.accuracy:.1f} %: use {_flags(top.preprocessing)}"
        )
    return top


def warnings(trial: Trial, classes: int, labels: np.ndarray) -> list[str]:
    """Warnings, if the labels or the predictions suggest that the model is fed wrongly."""
    if beyond := labels_beyond(labels, classes):
        return [f"WARNING: {beyond}"]
    if is_collapsed(trial, classes, labels):
        return [
            f"WARNING: the predictions fall into {trial.spread:.1f} of {classes} classes: the preprocessing is "
            "probably wrong, however confident they are"
        ]
    if is_at_chance(trial, classes):
        if is_shifted(trial, labels):
            return ["WARNING: accuracy is at chance, and the labels less 1 are predicted: number the classes from 0"]
        return ["WARNING: accuracy is at chance while the predictions are spread: are the labels in another order?"]
    return []


def labels_beyond(labels: np.ndarray, classes: int) -> str | None:
    """What is wrong with labels (int64 [N], -1 for none) that the model has no class for; None if it has all."""
    labelled = labels[labels >= 0]
    if not len(labelled) or labelled.max() < classes:
        return None
    if labelled.min() >= 1 and labelled.max() == classes:
        return (
            f"labels run from {labelled.min()} to {classes}, the model's classes from 0 to {classes - 1}: count from 0"
        )
    return f"labels run to {labelled.max()}, the model has {classes} classes"


def name(preprocessing: Preprocessing) -> str:
    name = "--mean --std" if preprocessing.name == "mean_std" else preprocessing.name
    return f"{name}, bgr" if preprocessing.channel_order == "bgr" else name


def _flags(preprocessing: Preprocessing) -> str:
    name = "--mean, --std as given" if preprocessing.name == "mean_std" else f"--preprocessing {preprocessing.name}"
    return f"{name} --channel_order bgr" if preprocessing.channel_order == "bgr" else name
