"""Flags that define which model is used, and how it is fed."""

import argparse
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.model_json import read_model_config
from odin_beam.pipeline.flags.parser import Parser, numbers, size
from odin_beam.transforms.calibration.calibration_file import Calibration, read_calibration
from odin_beam.transforms.errors import CalibrationError, ClassifierError
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.storage.paths import absolute_path

_GEOMETRY = ("image_size", "resize", "crop", "interpolation", "antialias", "jpeg")


def add_model_flags(parser: Parser, required: bool = True) -> None:
    """How a model is fed; None if not given, so that `--model_config` and the defaults can fill in.

    Args:
      parser: of the job.
      required: whether there must be a model.
    """
    parser.add_argument(
        "--model",
        required=required,
        metavar="FILE",
        help="Keras classifier: .keras, .h5, or the folder of a SavedModel",
    )
    parser.add_argument("--output_name", metavar="NAME", help="which output, for a model with several")
    parser.add_argument(
        "--model_factory",
        metavar="package.module:function",
        help="runs your own code: a function that takes the path of a local copy of FILE and returns the Keras model",
    )
    parser.add_argument("--model_config", metavar="FILE", help="model.json from `check`: how this model is fed")
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="what the model expects: unit [0, 1] (default), byte [0, 255], tf [-1, 1], torch (ImageNet mean and "
        "std), caffe (BGR bytes minus the ImageNet mean)",
    )
    parser.add_argument("--mean", type=numbers, metavar="R,G,B", help="instead of --preprocessing, in [0, 1] units")
    parser.add_argument("--std", type=numbers, metavar="R,G,B", help="goes with --mean, in [0, 1] units")
    parser.add_argument("--channel_order", metavar="ORDER", help="rgb (default), or bgr for a model trained on BGR")
    parser.add_argument("--image_size", type=size, metavar="H,W", help="for models with a variable-size input")
    parser.add_argument(
        "--resize", metavar="MODE", help="for images of another size: stretch (default), shorter_side or none"
    )
    parser.add_argument(
        "--crop",
        metavar="MODE",
        help="none (default) or center: cuts out the middle, without resizing unless --resize is given",
    )
    parser.add_argument("--interpolation", metavar="METHOD", help="method of tf.image.resize (default: bilinear)")
    parser.add_boolean("--antialias", "average when shrinking, as Pillow does (default: false)", default=None)
    parser.add_argument(
        "--jpeg",
        metavar="METHOD",
        help="JPEG decoding: accurate, as Pillow (default), or fast, as tf.io.decode_jpeg",
    )
    parser.add_argument("--image_feature", default="image", metavar="K", help="feature with the image (default: image)")
    parser.add_argument("--label_feature", default="label", metavar="K", help="feature with the label (default: label)")
    parser.add_argument("--id_feature", default="id", metavar="K", help="feature with the id (default: id)")


def add_class_names_flag(parser: Parser) -> None:
    """Adds `--class_names`, for jobs that record the names of a model's classes."""
    parser.add_argument(
        "--class_names",
        metavar="FILE",
        help="names of the model's classes, one a line, in the order of its outputs (default: those in --model_config "
        "or --calibration, else in a labels.txt beside the in-distribution images, else those of tfds:)",
    )


def model_settings(arguments: argparse.Namespace, **further: Any) -> ScoreSettings:
    """How a model is fed, by flags, `--model_config` and defaults.

    Args:
      arguments: parsed flags.
      further: other fields of the settings.

    Raises:
      UsageError: a value out of its range, flags that contradict each other, or a model that cannot be read.
    """
    model = absolute_path(arguments.model)
    try:
        digest = model_digest(model, any_file=arguments.model_factory is not None)
    except ClassifierError as e:
        raise UsageError(str(e)) from e
    fed = _feeding(arguments, digest)
    try:
        return ScoreSettings(
            model,
            digest,
            Preprocessing(**fed["preprocessing"]),
            Geometry(**fed["geometry"]),
            FeatureNames(arguments.image_feature, arguments.label_feature, arguments.id_feature),
            output_name=fed["output_name"],
            model_factory=arguments.model_factory,
            **further,
        )
    except (TypeError, ValueError) as e:
        raise UsageError(f"--{e}") from e


def calibration_given(arguments: argparse.Namespace) -> Calibration | None:
    """The calibration that `--calibration` names, if the job has that flag and it was given.

    Raises:
      UsageError: it cannot be read.
    """
    path = getattr(arguments, "calibration", None)
    if path is None:
        return None
    try:
        return read_calibration(absolute_path(path))
    except CalibrationError as e:
        raise UsageError(f"--calibration: {e}") from e


def _feeding(given: argparse.Namespace, digest: str) -> dict[str, Any]:
    """Fields of `Preprocessing` and `Geometry`, and the output: from the flags, else from a file that a job wrote.

    Raises:
      UsageError: they contradict each other.
    """
    if given.preprocessing and (given.mean or given.std):
        raise UsageError("give --preprocessing or --mean and --std, not both")
    if bool(given.mean) != bool(given.std):
        raise UsageError("--mean and --std go together")
    named = {"name": given.preprocessing} if given.preprocessing else {}
    preprocessing = {"name": "mean_std", "mean": given.mean, "std": given.std} if given.mean else named
    if given.channel_order:
        preprocessing = {**preprocessing, "channel_order": given.channel_order}
    geometry = {name: getattr(given, name) for name in _GEOMETRY if getattr(given, name) is not None}
    if (filed := _filed_feeding(given)) is None:
        if geometry.get("crop") == "center":
            # Stretching to the size first would leave nothing to cut off.
            geometry.setdefault("resize", "none")
        return {"preprocessing": preprocessing, "geometry": geometry, "output_name": given.output_name}
    flag, job, said = filed
    if said["model_digest"] != digest:
        raise UsageError(
            f"--{flag} {getattr(given, flag)} was made for a different model: run `odin-beam {job}` on this one"
        )
    known = {"preprocessing": vars(said["preprocessing"]), "geometry": vars(said["geometry"])}
    for kind, flags in (("preprocessing", preprocessing), ("geometry", geometry)):
        for name, value in flags.items():
            if known[kind][name] != value:
                raise UsageError(f"{kind} {name} {value} contradicts --{flag}, which has {known[kind][name]}")
    if given.output_name not in (None, said["output_name"]):
        raise UsageError(f"--output_name {given.output_name} contradicts --{flag}, which has {said['output_name']}")
    return {**known, "output_name": said["output_name"]}


def _filed_feeding(given: argparse.Namespace) -> tuple[str, str, dict[str, Any]] | None:
    """The flag that names a file, the job that wrote it, and how it feeds the model; None without such a file."""
    if given.model_config is not None:
        return "model_config", "check", vars(read_model_config(absolute_path(given.model_config)))
    if (calibration := calibration_given(given)) is not None:
        return "calibration", "tune", vars(calibration.settings)
    return None
