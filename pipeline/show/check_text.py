"""What `check` prints about a model."""

from odin_beam.pipeline.launch.quick_check import name
from odin_beam.transforms.checking.soundness import Soundness
from odin_beam.transforms.checking.trials import Trial
from odin_beam.transforms.model.classifier import Classifier


def describe(classifier: Classifier, found: str | None) -> str:
    """What the model itself shows."""
    height, width, channels = classifier.input_shape
    return "\n".join(
        [
            f"input        {height} x {width} x {channels}",
            f"normalises   {found or 'no normalisation layer'}",
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
    shape = " x ".join(str(side or "?") for side in classifier.last_layer.map_shape)
    return f"{shape}, global average pooling, then dense"


def trials_table(trials: list[Trial], images: int, labelled: int) -> str:
    """One line per preprocessing that was tried."""
    lines = [
        f"{images} images, {labelled} with labels:",
        "  preprocessing   accuracy   mean confidence   classes predicted",
    ]
    for trial in trials:
        accuracy = "-" if trial.accuracy is None else f"{100 * trial.accuracy:.1f} %"
        lines.append(f"  {name(trial.preprocessing):14}  {accuracy:>8}  {trial.confidence:16.3f}  {trial.spread:18.1f}")
    return "\n".join(lines)


def verdict(chosen: Trial, soundness: Soundness, warnings: list[str]) -> str:
    """What to use, what is doubtful about it, and how fast it is."""
    lines = [f"preprocessing: {name(chosen.preprocessing)}"]
    lines += warnings
    if not soundness.repeatable:
        lines.append("WARNING: the same batch gives different logits each time: the model is not deterministic")
    if soundness.alone_difference > 1e-4:
        lines.append(
            f"WARNING: an image alone and in a batch differ by {soundness.alone_difference:.1e}: batch statistics?"
        )
    if soundness.repeatable and soundness.alone_difference <= 1e-4:
        lines.append(
            "repeatable   identical logits for the same batch; an image alone and in a batch differ by "
            f"at most {soundness.alone_difference:.0e}"
        )
    lines.append(f"gradient     reaches {100 * soundness.gradient_share:.0f} % of the pixels")
    if 0 < soundness.gradient_share < 0.5:
        lines.append("WARNING: most of the gradient is zero, so the perturbation will do little")
    hours = 1e6 / soundness.images_per_second / 3600
    lines.append(f"speed        {soundness.images_per_second:,.0f} images/s on this machine, {hours:.1f} h per million")
    if soundness.as_loaded:
        lines.append(f"as loaded    the model cannot be rewritten into a faster form: {soundness.as_loaded}")
    return "\n".join(lines)
