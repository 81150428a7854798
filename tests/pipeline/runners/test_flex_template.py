"""The Flex Template: its parameters are the flags of its jobs, and what its launcher passes is understood."""

import json
from pathlib import Path

import pytest

from flex_template import launch_job, make_metadata
from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags import command_line
from odin_beam.pipeline.runners.beam_options import beam_options

FOLDER = Path(__file__).resolve().parents[3] / "flex_template"
METADATA = json.loads((FOLDER / "metadata.json").read_text())
PARAMETERS = {parameter["name"]: parameter for parameter in METADATA["parameters"]}
# As the launcher starts the job: its own options, and a parameter's value as it was typed, always one word.
LAUNCHED = [
    "--runner=DataflowRunner",
    "--project=my-project-1",
    "--region=us-central1",
    "--job_name=odin-1",
    "--temp_location=gs://staging/tmp",
    "--staging_location=gs://staging/staging",
    "--template_location=gs://staging/template_launches/1/job_object",
    '--labels={"goog-dataflow-provided-template-type": "flex"}',
    "--an_option_of_tomorrow=0",
    "--sdk_container_image=IMAGE",
    "--model=gs://b/m.keras",
    "--output=gs://b/out",
]


def parsed(**parameters):
    words = [f"--{name}={value}" for name, value in parameters.items()]
    job, *argv = launch_job.command([*LAUNCHED, *words])
    return command_line.parse(job, argv)


def test_metadata_is_up_to_date():
    assert make_metadata.metadata() == METADATA, "run `make template`"


def test_every_flag_of_every_job_is_a_parameter():
    for job in launch_job.JOBS:
        assert {flag.dest for flag in command_line.flags_of(job)} <= PARAMETERS.keys()
    required = {name for name, parameter in PARAMETERS.items() if not parameter["isOptional"]}
    # Not the model, which `from_features` replaces.
    assert required == {"output", "sdk_container_image"}


# A string that each parameter takes, and what it shall mean; in `arguments` unless said otherwise.
STRINGS = {
    "in_distribution": ("known=gs://b/a-*,other=gs://b/b-*", ["known=gs://b/a-*,other=gs://b/b-*"]),
    "out_distribution": ("noise:gaussian,noise:uniform", ["noise:gaussian,noise:uniform"]),
    "input": ("files:gs://b/**.jpg", ["files:gs://b/**.jpg"]),
    "noise_count": ("100", 100),
    "class_names": ("gs://b/names.txt", "gs://b/names.txt"),
    "reference": ("gs://b/reference.npz", "gs://b/reference.npz"),
    "near": ("a,b", ["a,b"]),
    "far": ("c", ["c"]),
    "tfds_data_dir": ("gs://b/tfds", "gs://b/tfds"),
    "temperature": ("1000", 1000.0),
    "epsilon": ("0.0014", 0.0014),
    "calibration": ("gs://b/calibration.json", "gs://b/calibration.json"),
    "output_name": ("logits", "logits"),
    "model_factory": ("package.module:function", "package.module:function"),
    "model_config": ("gs://b/model.json", "gs://b/model.json"),
    "preprocessing": ("tf", "tf"),
    "mean": ("0.5,0.5,0.5", (0.5, 0.5, 0.5)),
    "std": ("0.2,0.2,0.2", (0.2, 0.2, 0.2)),
    "channel_order": ("bgr", "bgr"),
    "image_size": ("224,224", (224, 224)),
    "resize": ("shorter_side", "shorter_side"),
    "crop": ("center", "center"),
    "interpolation": ("bicubic", "bicubic"),
    "antialias": ("true", True),
    "jpeg": ("fast", "fast"),
    "image_feature": ("picture", "picture"),
    "label_feature": ("class", "class"),
    "id_feature": ("name", "name"),
    "detectors": ("odin,msp", ["odin,msp"]),
    "features": ("float32", "float32"),
    "batch_size": ("128", 128),
    "precision": ("float32", "float32"),
    "max_rejected": ("0.05", 0.05),
    "accelerator": (
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    ),
    "overwrite": ("true", True),
    "check": ("false", False),
}


def test_every_parameter_is_tried_below():
    beams = {"sdk_container_image", "disk_size_gb", "number_of_worker_harness_threads"}
    assert STRINGS.keys() | {"model", "output", "job", "bank", "sample", "from_features"} | beams == PARAMETERS.keys()


@pytest.mark.parametrize("name", STRINGS)
def test_every_parameter_can_be_given_as_a_string(name):
    text, value = STRINGS[name]
    given = parsed(**{"input": "gs://b/in-*", name: text})
    assert getattr(given.arguments, name) == value


def test_the_template_fits_detectors_too():
    fit = parsed(job="fit", in_distribution="gs://b/in-*", output="gs://b/reference.npz", bank="100", sample="1000")
    assert (fit.output, fit.bank, fit.sample) == ("gs://b/reference.npz", 100, 1000)
    with pytest.raises(UsageError, match="unknown flag --temperature"):
        parsed(job="fit", in_distribution="gs://b/in-*", temperature="10")


def test_features_replace_the_model():
    words = [f"--{name}=gs://b/{name}" for name in ("from_features", "reference", "output")]
    job, *argv = launch_job.command([word for word in LAUNCHED if not word.startswith(("--model", "--output"))] + words)
    given = command_line.parse(job, argv)
    assert (given.folder, given.reference) == ("gs://b/from_features", "gs://b/reference")


def test_a_list_in_one_string_is_several_sources():
    given = parsed(in_distribution="known=gs://b/a-*,other=gs://b/b-*", out_distribution="noise:gaussian,noise:uniform")
    assert [source.name for source in given.sources.patterns] == ["known", "other", "gaussian", "uniform"]


def test_beams_own_parameters_reach_it():
    worker = beam_options(parsed(input="gs://b/in-*", disk_size_gb="200").beam).get_all_options()
    assert (worker["disk_size_gb"], worker["sdk_container_image"]) == (200, "IMAGE")
    assert worker["template_location"] == "gs://staging/template_launches/1/job_object"
