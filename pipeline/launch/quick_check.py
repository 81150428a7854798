"""Which preprocessing is right, tried on a few images: thoroughly by `check`, briefly by every run that scores."""

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.transforms.checking.expected_input import own_preprocessing
from odin_beam.transforms.checking.label_order import LabelOrder, best_order
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
    without_collapsed,
)
from odin_beam.transforms.detectors.passes import score_cells
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings

# Images that a scoring run looks at.
IMAGES = 64
# Pairs of a mapping of labels.
_SHOWN_LABELS = 20
NO_GRADIENT = "no gradient reaches the pixels, so ODIN cannot perturb them: score with --epsilon 0"


def quick_check(
    classifier: Classifier, pixels: np.ndarray, labels: np.ndarray, settings: ScoreSettings
) -> tuple[list[str], bool]:
    """The part of `check` that `score` runs first; gives warnings, and `labels_fit`.

    Raises:
      UsageError: another preprocessing is clearly better on labelled images, or no gradient reaches the pixels.
    """
    layer, own = own_preprocessing(classifier.model)
    given = classifier.preprocessing
    trials = try_all(classifier, pixels, labels, own, given)
    chosen = choose(trials, given, own, classifier.classes, labels)
    cells = score_cells(settings.odin).values() if "odin" in settings.detectors else ()
    moving = next((cell for cell in cells if cell.epsilon > 0), None)
    if moving and not gradient_share(classifier, pixels, moving):
        raise UsageError(NO_GRADIENT)
    return warnings(chosen, classifier.classes, labels, (layer, own)), labels_fit(chosen, classifier.classes, labels)


def labels_fit(trial: Trial, classes: int, labels: np.ndarray) -> bool:
    """Whether labels (int64 [N], -1 for none) are in the order of the model's outputs; True where nothing is known."""
    return not (is_at_chance(trial, classes) or labels_beyond(labels, classes))


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
            likely = without_collapsed(trials, classifier.classes, labels) or trials
            reversed_ = best(likely, given or own).preprocessing.reversed()
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
    """The preprocessing to use.

    The given one, unless another is clearly better. Else the one of highest accuracy; where labels do not help, the one
    that the model's own layers expect; where the labels follow another order, the one that fits best up to that order.
    One under which the predictions collapse is never chosen, and never a reason to refuse another.

    Raises:
      UsageError: the given one is clearly worse than another; or none is given and it cannot be decided.
    """
    usable = without_collapsed(trials, classes, labels)
    top = best(usable, given or own) if usable and (labels >= 0).any() else None
    if top is not None and not is_at_chance(top, classes):
        if given is not None and top.preprocessing != given:
            worse = _of(trials, given)
            raise UsageError(
                f"preprocessing {name(given)} gives {100 * worse.accuracy:.1f} % accuracy, {name(top.preprocessing)} "
                f"{100 * top.accuracy:.1f} %: use {_flags(top.preprocessing)}"
            )
        return top
    if given is not None:
        return _of(trials, given)
    beyond = labels_beyond(labels, classes)
    if top is not None and not beyond and (reordered := _best_up_to_order(usable, classes, labels)):
        return reordered
    if own is not None and _of(trials, own) in usable:
        return _of(trials, own)
    if not usable:
        why = "the predictions collapse into a few classes under every one"
    elif top is None:
        why = "there are no labels"
    else:
        why = beyond or "accuracy is at chance under every one"
    raise UsageError(f"the preprocessing cannot be chosen because {why}: give --preprocessing")


def _of(trials: list[Trial], preprocessing: Preprocessing) -> Trial:
    return next(trial for trial in trials if trial.preprocessing == preprocessing)


def _best_up_to_order(trials: list[Trial], classes: int, labels: np.ndarray) -> Trial | None:
    """The trial whose predictions fit the labels best in some order of the classes; None if none fits any."""
    accuracy = {
        trial.preprocessing: order.accuracy
        for trial in trials
        if (order := best_order(trial.predictions, labels, classes)).explains
    }
    return max(
        (t for t in trials if t.preprocessing in accuracy), key=lambda t: accuracy[t.preprocessing], default=None
    )


def warnings(
    trial: Trial, classes: int, labels: np.ndarray, own: tuple[str | None, Preprocessing | None] = (None, None)
) -> list[str]:
    """Warnings, if the predictions or the model's own layers suggest that the model is fed wrongly.

    Args:
      trial: with the preprocessing that is used.
      classes: K.
      labels: int64 [N], -1 for an image without a label.
      own: of `own_preprocessing`.
    """
    if beyond := labels_beyond(labels, classes):
        return [f"WARNING: {beyond}"]
    found = []
    if is_collapsed(trial, classes, labels):
        found.append(
            f"WARNING: the predictions fall into {trial.spread:.1f} of {classes} classes: the preprocessing is "
            "probably wrong, however confident they are"
        )
    elif is_at_chance(trial, classes) and is_shifted(trial, labels):
        found.append("WARNING: accuracy is at chance, and the labels less 1 are predicted: number the classes from 0")
    elif is_at_chance(trial, classes):
        found.append(_order_warning(trial, best_order(trial.predictions, labels, classes)))
    layer, expected = own
    if expected is not None and trial.accuracy is None and trial.preprocessing != expected:
        found.append(
            f"WARNING: {layer} in the model expects {_flags(expected)}, and {name(trial.preprocessing)} is used; "
            "there are no labels to tell which is right"
        )
    return found


def _order_warning(trial: Trial, order: LabelOrder) -> str:
    if not order.explains:
        return "WARNING: accuracy is at chance while the predictions are spread: are the labels in another order?"
    pairs = [f"{label} -> {output}" for label, output in order.outputs.items()]
    more = f" and {len(pairs) - _SHOWN_LABELS} more" if len(pairs) > _SHOWN_LABELS else ""
    return (
        f"WARNING: the labels are in another order than the model's outputs: accuracy is {100 * trial.accuracy:.1f} %, "
        f"and {100 * order.accuracy:.1f} % with the labels mapped {', '.join(pairs[:_SHOWN_LABELS])}{more}"
    )


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
