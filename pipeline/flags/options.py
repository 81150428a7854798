"""Flags of every job -> frozen options; validation; help.

`-` and `_` are alike in flag names, nothing may be abbreviated, and an unknown flag is an error. Beam's own options are
accepted everywhere; what follows a lone `--` goes to the runner untouched. A list flag may be repeated or take one
comma-separated value, and every flag can be given as a string, since Dataflow templates pass strings.
"""

import argparse
import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
)

from odin_beam.pipeline.runners import dataflow
from odin_beam.transforms.calibration.calibration_file import Calibration, read_calibration
from odin_beam.transforms.calibration.objectives import OBJECTIVES
from odin_beam.transforms.detectors.registry import DETECTORS
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.forward.precisions import PRECISIONS
from odin_beam.transforms.shards.surrogates import KINDS as SURROGATES
from odin_beam.transforms.storage.paths import absolute_path

if TYPE_CHECKING:
    from odin_beam.transforms.scoring.settings import ScoreSettings

DEFAULT_RUNNER = "FnApiRunner"
SOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_GEOMETRY = ("image_size", "resize", "crop", "interpolation", "antialias", "jpeg")
ROLES = ("in_distribution", "out_distribution", "input")
KINDS = ("files", "manifest", "tfds", "noise")
# Log-spaced around the paper's choice for DenseNet-BC on CIFAR-10; and the paper's own grid.
GRIDS = {
    "small": ((1.0, 10.0, 100.0, 1000.0), (0.0, 0.00035, 0.0007, 0.0014, 0.0028, 0.0056)),
    "paper": (
        (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
        tuple(round(0.0002 * i, 4) for i in range(21)),
    ),
}
_PATTERN_HELP = """PATTERN is one of
  GLOB                        TFRecord files of tf.train.Example, .gz recognised
  files:GLOB                  loose images
  manifest:FILE               .csv or .parquet with the columns uri, and if wanted label (class index) and id
  tfds:NAME[:VERSION]/SPLIT   a data set that TensorFlow Datasets has prepared
  noise:gaussian|uniform      made on the spot
A flag may be repeated, or take several patterns with commas between them, so a comma cannot be part of one."""
JOBS = {
    "check": "is this model understood? its head, size and preprocessing, proven on your images",
    "score": "score an archive: ODIN and the other detectors, one Parquet row per image, detection metrics",
    "tune": "find temperature, epsilon and thresholds for a classifier, and write them to calibration.json",
    "flag": "flag out-of-distribution images in scores that exist, by a calibration; no TensorFlow, no GPU",
    "evaluate": "compute metrics.json again from scores that exist; no TensorFlow, no GPU",
    "report": "draw what a run found: one HTML page with metrics, curves and the images at either end",
    "ingest": "turn images in folders or archives into TFRecord shards, or reshard TFRecords",
    "demo": "the whole tour on the example that ships with the package",
}


class UsageError(Exception):
    """The command cannot be meant as given; the message is one line that says what to do."""


@dataclass(frozen=True)
class SourcePattern:
    """One `[NAME=]PATTERN` of the command line.

    Attributes:
      name: the source's NAME; where none was given its role, for noise the distribution, for TFDS the data set.
      role: one of `ROLES`.
      pattern: without `KIND:`; globs and files made absolute.
      kind: `tfrecord`, or one of `KINDS`.
    """

    name: str
    role: str
    pattern: str
    kind: str = "tfrecord"

    @property
    def text(self) -> str:
        """The PATTERN as it may be written again."""
        return self.pattern if self.kind == "tfrecord" else f"{self.kind}:{self.pattern}"


@dataclass(frozen=True)
class SourceOptions:
    """The sources of a job.

    Attributes:
      patterns: in the order given.
      noise_count: images of each `noise:` source.
      tfds_data_dir: where `tfds:` sources are prepared, absolute.
      workers_elsewhere: whether the workers see nothing of this machine.
    """

    patterns: tuple[SourcePattern, ...]
    noise_count: int
    tfds_data_dir: str
    workers_elsewhere: bool = False


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`. What needs TensorFlow to be checked is kept as given, see `score_settings`.

    Attributes:
      accelerator: what the workers that score shall have, as Beam's resource hint; no matter of the settings.
    """

    model: str
    output: str
    sources: SourceOptions
    calibrated: bool
    max_rejected: float
    overwrite: bool
    check: bool
    accelerator: str | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class TuneOptions:
    """Options of `tune`; `accelerator` and `arguments` as in `ScoreOptions`.

    Attributes:
      folder: of the scores of the grid, absolute; beside `output`.
      temperatures: of the grid, ascending.
      epsilons: of the grid, ascending.
      surrogate: kind of the surrogates; None where there are out-of-distribution images, or none are needed.
    """

    model: str
    output: str
    folder: str
    sources: SourceOptions
    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]
    objective: str
    surrogate: str | None
    per_class: bool
    max_rejected: float
    overwrite: bool
    check: bool
    accelerator: str | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckOptions:
    """Options of `check`; `arguments` as in `ScoreOptions`."""

    model: str
    output: str | None
    sources: SourceOptions
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    scores: str
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlagOptions:
    """Options of `flag`; one of `tpr` and `fdr` is None."""

    scores: str
    calibration: str
    detector: str
    tpr: float | None
    fdr: float | None
    per_class: bool
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`."""

    scores: str
    model_factory: str | None
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class IngestOptions:
    """Options of `ingest`."""

    images: tuple[str, ...]
    output: str
    shards: int
    class_names: str | None
    beam: tuple[str, ...] = ()


@dataclass(frozen=True)
class DemoOptions:
    """Options of `demo`."""

    output: str
    beam: tuple[str, ...] = ()


Options = (
    CheckOptions
    | ScoreOptions
    | TuneOptions
    | FlagOptions
    | EvaluateOptions
    | ReportOptions
    | IngestOptions
    | DemoOptions
)


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UsageError(f"{message} (see odin-beam {self.prog.split()[-1]} --help)")


def job_list() -> str:
    """Help on the jobs as a whole."""
    lines = ["usage: odin-beam JOB [flags]", "", "jobs:"]
    lines += [f"  {job:10} {summary}" for job, summary in JOBS.items()]
    return "\n".join([*lines, "", "odin-beam JOB --help tells the flags of a job."])


def parse(job: str, argv: Sequence[str]) -> Options:
    """Options of a job from what follows its name on the command line.

    Raises:
      UsageError: unknown job or flag, missing or bad value.
      SystemExit: after `--help`.
    """
    if job not in JOBS:
        raise UsageError(f"unknown job {job!r}; the jobs are {', '.join(JOBS)}")
    parser, make = _PARSERS[job]()
    ours, runners = _split(argv)
    arguments, rest = parser.parse_known_args(ours)
    made = make(arguments, (*_known_to_beam(rest, parser), *runners))
    _refuse_on_dataflow(made)
    return made


def flags_of(job: str) -> list[argparse.Action]:
    """The flags of a job, in the order of its help."""
    return [action for action in _PARSERS[job]()[0]._actions if action.dest != "help"]


def beam_options(flags: Sequence[str], holds_model: bool = False, accelerator: str | None = None) -> PipelineOptions:
    """Beam's options of a job: `DEFAULT_RUNNER` unless told otherwise, code from the image, never from `__main__`.

    Args:
      flags: Beam's own, as given.
      holds_model: whether the job's workers hold a model.
      accelerator: of those workers, where one is asked for.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or DEFAULT_RUNNER
    options.view_as(SetupOptions).save_main_session = False
    if dataflow.on_dataflow(options):
        dataflow.set_defaults(options, holds_model, accelerator)
    return options


def _refuse_on_dataflow(options: Options) -> None:
    """Sees that Dataflow can run the job.

    Raises:
      UsageError: it cannot; all other runners may.
    """
    beam = PipelineOptions(list(options.beam))
    if isinstance(options, CheckOptions | DemoOptions) or not dataflow.on_dataflow(beam):
        return
    if isinstance(options, ReportOptions) and beam.view_as(GoogleCloudOptions).template_location:
        raise UsageError("report waits for what its workers find: leave --template_location out")
    if problem := dataflow.problem(beam, _worker_paths(options), getattr(options, "accelerator", None)):
        raise UsageError(problem)


def _worker_paths(options: Options) -> list[tuple[str, str]]:
    """(flag, path) of all that the workers read or write; calibrations and lists are read at launch alone."""
    match options:
        case ScoreOptions() | TuneOptions():
            return [("model", options.model), ("output", options.output), *_source_paths(options.sources)]
        case FlagOptions() | EvaluateOptions() | ReportOptions():
            return [("scores", options.scores)]
        case IngestOptions():
            return [*(("images", pattern) for pattern in options.images), ("output", options.output)]
    return []


def _source_paths(sources: SourceOptions) -> list[tuple[str, str]]:
    paths = []
    for source in sources.patterns:
        if source.kind in ("tfrecord", "files"):
            paths.append((source.role, source.pattern))
        elif source.kind == "tfds":
            paths.append(("tfds_data_dir", sources.tfds_data_dir))
    return paths


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our part with flag names spelled with `_`, and the runner's part behind a lone `--`."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    ours = []
    for word in argv[:cut]:
        name, equals, value = word.partition("=")
        ours.append(name[:2] + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word)
    return ours, argv[cut + 1 :]


def _known_to_beam(flags: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The flags unchanged, once Beam has recognised every one."""
    parsers = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    unknown = parsers[0].parse_known_args(flags)[1]
    if unknown:
        name = unknown[0].partition("=")[0]
        ours = [option for action in parser._actions for option in action.option_strings]
        close = [option for option in ours if option.startswith(name)] or difflib.get_close_matches(name, ours, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        kind = "flag" if name.startswith("-") else "argument"
        parser.error(f"unknown {kind} {name}{hint}")
    return flags


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def _accelerator(text: str) -> str:
    if not re.fullmatch(r"type:[\w-]+;count:[1-9][0-9]*(;[\w:.-]+)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form type:TYPE;count:N;install-nvidia-driver")
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from e


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from e


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return value


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no rate above 0 and below 1")
    return value


def _positive(text: str) -> int:
    value = _whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(",")))


def _size(text: str) -> tuple[int, int]:
    parts = list(map(_whole_number, text.split(",")))
    if len(parts) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text} is neither H,W nor one number for both")
    return parts[0], parts[-1]


def _flag(parser: argparse.ArgumentParser, name: str, help: str, default: bool | None = False) -> None:
    parser.add_argument(name, nargs="?", const=True, default=default, type=_boolean, metavar="true|false", help=help)


def _list(parser: argparse.ArgumentParser, name: str, metavar: str, help: str, **kwargs) -> None:
    parser.add_argument(name, action="append", default=[], metavar=metavar, help=help, **kwargs)


def _items(values: Sequence[str]) -> list[str]:
    return [item for value in values for item in value.split(",") if item]


def _parser(job: str, description: str = "") -> _Parser:
    runner = (
        f"Beam's own options are accepted too; the runner is {DEFAULT_RUNNER}, local, unless --runner says otherwise."
    )
    return _Parser(prog=f"odin-beam {job}", description=f"{JOBS[job]}\n\n{description}", epilog=runner)


def _model_flags(parser: argparse.ArgumentParser) -> None:
    """How a model is fed; None where not given, so that `--model_config` and defaults can fill in."""
    parser.add_argument(
        "--model", required=True, metavar="FILE", help="Keras classifier: .keras, .h5, or the folder of a SavedModel"
    )
    parser.add_argument("--output_name", metavar="NAME", help="which output, of a model that has several")
    parser.add_argument(
        "--model_factory",
        metavar="package.module:function",
        help="runs your own code: a function from the path of a local copy of FILE to the Keras model",
    )
    parser.add_argument("--model_config", metavar="FILE", help="model.json of `check`: how this model is fed")
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="what the model wants to see: unit [0, 1] (default), byte [0, 255], tf [-1, 1], torch (ImageNet mean and "
        "std), caffe (BGR bytes minus the ImageNet mean)",
    )
    parser.add_argument("--mean", type=_numbers, metavar="R,G,B", help="instead of --preprocessing, in [0, 1] units")
    parser.add_argument("--std", type=_numbers, metavar="R,G,B", help="goes with --mean")
    parser.add_argument("--channel_order", metavar="ORDER", help="rgb (default), or bgr for a model trained on BGR")
    parser.add_argument("--image_size", type=_size, metavar="H,W", help="for a model whose input leaves it open")
    parser.add_argument("--resize", metavar="MODE", help="stretch (default), shorter_side or none: for other sizes")
    parser.add_argument(
        "--crop",
        metavar="MODE",
        help="none (default) or center: cuts the middle out, without resizing unless --resize asks for it",
    )
    parser.add_argument("--interpolation", metavar="METHOD", help="of tf.image.resize (default: bilinear)")
    _flag(parser, "--antialias", "average when shrinking, as Pillow does", default=None)
    parser.add_argument(
        "--jpeg",
        metavar="METHOD",
        help="decoding of JPEG: accurate, as Pillow (default), or fast, as tf.io.decode_jpeg",
    )
    parser.add_argument("--image_feature", default="image", metavar="K", help="(default: image)")
    parser.add_argument("--label_feature", default="label", metavar="K", help="(default: label)")
    parser.add_argument("--id_feature", default="id", metavar="K", help="(default: id)")


def _source_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--noise_count",
        type=_positive,
        default=10_000,
        metavar="N",
        help="images of each noise: source (default: 10000)",
    )
    parser.add_argument(
        "--tfds_data_dir",
        default="~/tensorflow_datasets",
        metavar="DIR",
        help="of tfds: sources (default: ~/tensorflow_datasets)",
    )


def _score_parser():
    parser = _parser(
        "score",
        f"{_PATTERN_HELP}\nNAME is what the source is called in the results; without one it is called by its role,\n"
        "tfds: and noise: by what they are.",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results; a rerun resumes there")
    _list(parser, "--in_distribution", "[NAME=]PATTERN", "images like those the classifier was trained on")
    _list(parser, "--out_distribution", "[NAME=]PATTERN", "images known to be foreign to it")
    _list(parser, "--input", "[NAME=]PATTERN", "images of which that is not known")
    _source_flags(parser)
    parser.add_argument("--temperature", type=_number, metavar="T", help="ODIN's T (default: 1000)")
    parser.add_argument(
        "--epsilon", type=_number, metavar="EPS", help="ODIN's epsilon, pixels in [0, 1] (default: 0.0014)"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="calibration.json of `tune`: T, epsilon and how the model is fed, instead of --model_config",
    )
    _model_flags(parser)
    _list(
        parser,
        "--detectors",
        "NAME,...",
        f"of {', '.join(DETECTORS)} (default: all)",
    )
    _run_flags(parser)
    return parser, _score_options


def _run_flags(parser: argparse.ArgumentParser) -> None:
    """Of every job that scores."""
    parser.add_argument("--batch_size", type=_positive, default=64, metavar="N", help="images at once (default: 64)")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="mixed: bfloat16 behind the first convolution, where the hardware has it (default: float32)",
    )
    parser.add_argument(
        "--max_rejected",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="above this share of rejected records the exit code is 3 (default: 0.01)",
    )
    parser.add_argument(
        "--accelerator",
        type=_accelerator,
        metavar="HINT",
        help="of the workers that score, on Dataflow: type:nvidia-tesla-t4;count:1;install-nvidia-driver "
        "(default: none; local runners use the GPU that is there)",
    )
    _flag(parser, "--overwrite", "remove what an earlier run left behind")
    _flag(parser, "--check", "first see on a few images that the model is understood (default: true)", default=True)


def _score_options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> ScoreOptions:
    sources = _source_options(arguments, ROLES, beam)
    if not sources.patterns:
        raise UsageError("nothing to score: give --in_distribution, --out_distribution or --input")
    roles: dict[str, str] = {}
    for source in sources.patterns:
        if roles.setdefault(source.name, source.role) != source.role:
            raise UsageError(
                f"source {source.name!r} is given as {roles[source.name]} and as {source.role}: rename one"
            )
    if arguments.calibration and arguments.model_config:
        raise UsageError("give --calibration or --model_config, not both: the calibration has all that the other has")
    return ScoreOptions(
        absolute_path(arguments.model),
        absolute_path(arguments.output),
        sources,
        arguments.calibration is not None,
        arguments.max_rejected,
        arguments.overwrite,
        arguments.check,
        arguments.accelerator,
        arguments,
        beam,
    )


def _tune_parser():
    grids = "; ".join(
        f"{name}: T of {', '.join(f'{t:g}' for t in temperatures)}, {len(epsilons)} epsilons from 0 to {epsilons[-1]:g}"
        for name, (temperatures, epsilons) in GRIDS.items()
    )
    parser = _parser(
        "tune",
        "Scores the images under every temperature and epsilon, takes the best pair, and writes it with thresholds\n"
        "and the distribution of in-distribution scores, for `score --calibration` and `flag`. Without\n"
        f"out-of-distribution images it makes surrogates of your own.\n\n{_PATTERN_HELP}",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="calibration.json to write; pictures go beside it"
    )
    _list(
        parser,
        "--in_distribution",
        "[NAME=]PATTERN",
        "validation images, like those the classifier was trained on but not these",
    )
    _list(parser, "--out_distribution", "[NAME=]PATTERN", "images known to be foreign to it; not those to report on")
    _source_flags(parser)
    parser.add_argument("--grid", choices=GRIDS, help=f"{grids} (default: small)")
    _list(parser, "--temperatures", "T,...", "instead of --grid's")
    _list(parser, "--epsilons", "EPS,...", "instead of --grid's; have 0 among them")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="fpr_at_95_tpr (default with --out_distribution), auroc (default without, against surrogates), or "
        "mean_score: of in-distribution images alone, for one temperature (with care: see docs/tuning.md)",
    )
    parser.add_argument(
        "--surrogate",
        choices=SURROGATES,
        help="what is made of your images where there is no --out_distribution: shuffled patches (default), pixel "
        "noise, or averages of two",
    )
    _flag(parser, "--per_class", "also keep the scores of each predicted class, for `flag --per_class`")
    _model_flags(parser)
    _run_flags(parser)
    return parser, _tune_options


def _tune_options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> TuneOptions:
    sources = _source_options(arguments, ROLES[:2], beam)
    given = {source.role for source in sources.patterns}
    if "in_distribution" not in given:
        raise UsageError("nothing to tune on: give --in_distribution, validation images of what the classifier knows")
    temperatures, epsilons = _grid(arguments)
    foreign = "out_distribution" in given
    objective = arguments.objective or ("fpr_at_95_tpr" if foreign else "auroc")
    if objective == "fpr_at_95_tpr" and not foreign:
        raise UsageError(
            "--objective fpr_at_95_tpr needs --out_distribution; without it give auroc, against surrogates"
        )
    if objective == "mean_score" and (foreign or arguments.surrogate):
        raise UsageError("--objective mean_score looks at in-distribution images alone: leave the others out")
    if objective == "mean_score" and len(temperatures) > 1:
        raise UsageError("--objective mean_score cannot compare temperatures: give one --temperatures")
    if foreign and arguments.surrogate:
        raise UsageError("give --out_distribution or --surrogate, not both")
    output = absolute_path(arguments.output)
    return TuneOptions(
        absolute_path(arguments.model),
        output,
        f"{output.removesuffix('.json')}-tuning",
        sources,
        temperatures,
        epsilons,
        objective,
        None if foreign or objective == "mean_score" else arguments.surrogate or SURROGATES[0],
        arguments.per_class,
        arguments.max_rejected,
        arguments.overwrite,
        arguments.check,
        arguments.accelerator,
        arguments,
        beam,
    )


def _grid(arguments: argparse.Namespace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Temperatures and epsilons, ascending, none twice.

    Raises:
      UsageError: an empty list, a number out of range, or `--grid` beside what it would set.
    """
    axes = []
    for name, default in zip(("temperatures", "epsilons"), GRIDS[arguments.grid or "small"], strict=True):
        if not (given := getattr(arguments, name)):
            axes.append(default)
            continue
        if arguments.grid:
            raise UsageError(f"give --grid or --{name}, not both")
        try:
            values = [float(item) for item in _items(given)]
        except ValueError as e:
            raise UsageError(f"--{name}: {e}") from e
        if not values:
            raise UsageError(f"--{name} is an empty list")
        for value in values:
            if not (math.isfinite(value) and value >= 0 and (value > 0 or name == "epsilons")):
                raise UsageError(
                    f"--{name}: {value:g} is no number {'of at least 0' if name == 'epsilons' else 'above 0'}"
                )
        axes.append(tuple(sorted(set(values))))
    return axes[0], axes[1]


def _source_options(arguments: argparse.Namespace, roles: Sequence[str], beam: Sequence[str] = ()) -> SourceOptions:
    given = ((text, role) for role in roles for text in getattr(arguments, role))
    patterns = tuple(pattern for text, role in given for pattern in source_patterns(text, role))
    elsewhere = dataflow.on_dataflow(PipelineOptions(list(beam)))
    return SourceOptions(patterns, arguments.noise_count, absolute_path(arguments.tfds_data_dir), elsewhere)


def source_patterns(text: str, role: str) -> list[SourcePattern]:
    """`[NAME=]PATTERN[,[NAME=]PATTERN]...` -> its parts; a NAME holds until the next one.

    What stands before the first `=` is part of the pattern if it is no NAME.

    Raises:
      UsageError: a NAME without PATTERN, or an unknown kind of noise.
    """
    patterns, name = [], None
    for item in _items([text]):
        before, equals, pattern = item.partition("=")
        if equals and SOURCE_NAME.fullmatch(before):
            name = before
        else:
            pattern = item
        if not pattern:
            raise UsageError(f"source {name!r} has no pattern: give --{role} {name}=PATTERN")
        patterns.append(_source_pattern(name, role, pattern))
    return patterns


def _source_pattern(name: str | None, role: str, pattern: str) -> SourcePattern:
    kind, colon, rest = pattern.partition(":")
    if not colon or kind not in KINDS:
        if colon and not rest.startswith("//") and (close := difflib.get_close_matches(kind, KINDS, n=1)):
            raise UsageError(f"--{role} {pattern}: did you mean {close[0]}:{rest}?")
        return SourcePattern(name or role, role, absolute_path(pattern))
    if kind in ("files", "manifest"):
        return SourcePattern(name or role, role, absolute_path(rest), kind)
    # Two kinds of noise under the name of their role would be one source.
    own = re.match(r"[A-Za-z][A-Za-z0-9_.-]*", rest)
    return SourcePattern(name or (own[0] if own else role), role, rest, kind)


def model_settings(arguments: argparse.Namespace, model: str) -> "ScoreSettings":
    """How a model is fed, by flags, `--model_config` and defaults; all else as it is by default.

    Imports TensorFlow, which takes seconds; call it when the rest of the command line is known to be good.

    Raises:
      UsageError: a value out of its range, or flags that contradict each other.
      model_file.ClassifierError: the model cannot be read.
    """
    from odin_beam.transforms.images.geometry import Geometry
    from odin_beam.transforms.model.files import model_digest
    from odin_beam.transforms.model.preprocessing import Preprocessing
    from odin_beam.transforms.scoring.settings import ScoreSettings
    from odin_beam.transforms.shards.shard import FeatureNames

    digest = model_digest(model, any_file=arguments.model_factory is not None)
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
        )
    except (TypeError, ValueError) as e:
        raise UsageError(f"--{e}") from e


def tune_settings(options: TuneOptions) -> "ScoreSettings":
    """The settings of a `tune` run; see `model_settings`."""
    from odin_beam.transforms.detectors.odin_settings import OdinGrid

    given = options.arguments
    return replace(
        model_settings(given, options.model),
        odin=OdinGrid(options.temperatures, options.epsilons),
        precision=given.precision,
        batch_size=given.batch_size,
    )


def score_settings(options: ScoreOptions) -> "ScoreSettings":
    """The settings of a `score` run; see `model_settings`."""
    from odin_beam.transforms.detectors.odin_settings import OdinSettings

    given = options.arguments
    try:
        return replace(
            model_settings(given, options.model),
            odin=OdinSettings(**_odin_parameters(given)),
            detectors=tuple(_items(given.detectors)) or DETECTORS,
            precision=given.precision,
            batch_size=given.batch_size,
        )
    except ValueError as e:
        raise UsageError(f"--{e}") from e


def _odin_parameters(given: argparse.Namespace) -> dict[str, float]:
    """Temperature and epsilon as flags say, else the calibration, else nothing.

    Raises:
      UsageError: they contradict each other.
    """
    flags = {name: getattr(given, name) for name in ("temperature", "epsilon") if getattr(given, name) is not None}
    if given.calibration is None:
        return flags
    found = _calibration(given.calibration).settings
    for name, value in flags.items():
        if value != found["odin"][name]:
            raise UsageError(f"--{name} {value:g} contradicts --calibration, which has {found['odin'][name]:g}")
    for name in ("precision", "model_factory"):
        if getattr(given, name) != found[name]:
            raise UsageError(f"--{name} {getattr(given, name)} contradicts --calibration, which has {found[name]}")
    return {name: float(found["odin"][name]) for name in ("temperature", "epsilon")}


def _calibration(path: str) -> Calibration:
    try:
        return read_calibration(absolute_path(path))
    except CalibrationError as e:
        raise UsageError(f"--calibration: {e}") from e


def _feeding(given: argparse.Namespace, model_digest: str) -> dict[str, Any]:
    """Fields of `Preprocessing` and `Geometry`, and the output: as flags say, else a file of an earlier job's.

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
    from odin_beam.transforms.scoring.settings import lists_to_tuples

    flag, job, said = filed
    if said["model_digest"] != model_digest:
        raise UsageError(f"--{flag} {getattr(given, flag)} is of another model: run `odin-beam {job}` on this one")
    found = {kind: lists_to_tuples(said[kind]) for kind in ("preprocessing", "geometry")}
    for kind, flags in (("preprocessing", preprocessing), ("geometry", geometry)):
        for name, value in flags.items():
            if (known := found[kind].get(name)) != value:
                raise UsageError(f"{kind} {name} {value} contradicts --{flag}, which has {known}")
    if given.output_name not in (None, said["output_name"]):
        raise UsageError(f"--output_name {given.output_name} contradicts --{flag}, which has {said['output_name']}")
    return {**found, "output_name": said["output_name"]}


def _filed_feeding(given: argparse.Namespace) -> tuple[str, str, dict[str, Any]] | None:
    """The flag that names a file, the job that wrote it, and how it says that the model is fed; None without such."""
    if given.model_config is not None:
        from odin_beam.pipeline.flags.model_config import read_model_config

        return "model_config", "check", vars(read_model_config(absolute_path(given.model_config)))
    if getattr(given, "calibration", None) is not None:
        return "calibration", "tune", _calibration(given.calibration).settings
    return None


def _check_parser():
    parser = _parser(
        "check",
        "Tries the usual preprocessings on up to 256 in-distribution images and compares accuracies; so give it\n"
        f"images with labels if there are any.\n\n{_PATTERN_HELP}",
    )
    _model_flags(parser)
    _list(parser, "--in_distribution", "[NAME=]PATTERN", "images like those the classifier was trained on")
    _source_flags(parser)
    parser.add_argument("--output", metavar="FILE", help="model.json to write; the contact sheet goes beside it")
    return parser, _check_options


def _check_options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> CheckOptions:
    return CheckOptions(
        absolute_path(arguments.model),
        absolute_path(arguments.output) if arguments.output else None,
        _source_options(arguments, ["in_distribution"]),
        arguments,
        beam,
    )


def _evaluate_parser():
    parser = _parser("evaluate")
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    return parser, lambda given, beam: EvaluateOptions(absolute_path(given.scores), beam)


def _flag_parser():
    parser = _parser(
        "flag",
        "Writes DIR/flags/, one row per image: shard, index, id, prediction, score, p_value (conformal: how unusual\n"
        "the score is among the calibration's in-distribution ones) and is_ood. A new threshold scores nothing again.",
    )
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    parser.add_argument("--calibration", required=True, metavar="FILE", help="calibration.json of `tune`")
    parser.add_argument("--detector", default="odin", choices=DETECTORS, help="(default: odin)")
    parser.add_argument(
        "--tpr",
        type=_rate,
        metavar="RATE",
        help="flag below the threshold that this share of the calibration images reaches (default: 0.95)",
    )
    parser.add_argument(
        "--fdr",
        type=_rate,
        metavar="RATE",
        help="instead: flag so that of all flags at most this share is expected to be in-distribution "
        "(Benjamini-Hochberg, over the --input sources, or over all where there are none)",
    )
    _flag(parser, "--per_class", "against calibration images of the same predicted class, where there are enough")
    return parser, _flag_options


def _flag_options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> FlagOptions:
    if arguments.tpr is not None and arguments.fdr is not None:
        raise UsageError("give --tpr or --fdr, not both")
    tpr = 0.95 if arguments.tpr is None and arguments.fdr is None else arguments.tpr
    return FlagOptions(
        absolute_path(arguments.scores),
        absolute_path(arguments.calibration),
        arguments.detector,
        tpr,
        arguments.fdr,
        arguments.per_class,
        beam,
    )


def _report_parser():
    parser = _parser("report", "The page is DIR/report/report.html, self-contained; its figures lie beside it as SVG.")
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    parser.add_argument(
        "--model_factory",
        metavar="package.module:function",
        help="as it was given to `score`: a run's folder alone cannot have your own code run",
    )
    return parser, lambda given, beam: ReportOptions(absolute_path(given.scores), given.model_factory, beam)


def _ingest_parser():
    parser = _parser(
        "ingest",
        "PATTERN is a folder, a glob of images, a .zip or .tar archive (.tar.gz too), or a glob of TFRecord files to\n"
        "reshard. The shards hold tf.train.Example with TensorFlow Datasets' feature names.",
    )
    _list(parser, "--images", "PATTERN", "images to take; may be repeated", required=True)
    parser.add_argument("--output", required=True, metavar="PREFIX", help="shards are PREFIX-00000-of-0000N.tfrecord")
    parser.add_argument("--shards", required=True, type=_positive, metavar="N", help="how many shards to write")
    parser.add_argument("--class_names", metavar="FILE", help="class names in label order, one per line")
    return parser, lambda given, beam: IngestOptions(
        tuple(absolute_path(pattern) for pattern in _items(given.images)),
        absolute_path(given.output),
        given.shards,
        absolute_path(given.class_names) if given.class_names else None,
        beam,
    )


def _demo_parser():
    parser = _parser("demo")
    parser.add_argument("--output", default="demo-output", metavar="DIR", help="(default: demo-output)")
    return parser, lambda given, beam: DemoOptions(absolute_path(given.output), beam)


_PARSERS = {
    "check": _check_parser,
    "score": _score_parser,
    "tune": _tune_parser,
    "flag": _flag_parser,
    "evaluate": _evaluate_parser,
    "report": _report_parser,
    "ingest": _ingest_parser,
    "demo": _demo_parser,
}
