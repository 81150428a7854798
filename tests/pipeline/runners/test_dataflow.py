"""Dataflow, as far as it can be seen without Google: the job's description, written against a storage emulator."""

import json
from types import SimpleNamespace

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, WorkerOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
from apache_beam.runners.portability.fn_api_runner import execution
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from odin_beam.pipeline.flags import command_line
from odin_beam.pipeline.main import main
from odin_beam.pipeline.runners import dataflow
from odin_beam.pipeline.runners.beam_options import beam_options
from odin_beam.transforms.storage import reading
from tests.helpers import object_store, samples

IMAGE = "region-docker.pkg.dev/p/r/odin-beam:1"
T4 = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
HINT = "beam:resources:accelerator:v1"
WORKER_ACCELERATOR = f"--dataflow_service_options=worker_accelerator={T4}"


@pytest.fixture(scope="module")
def gs():
    with object_store.object_store():
        # Where a bucket's name is too short, Beam quietly takes another one for temporary files.
        Client(project="my-project-1", credentials=AnonymousCredentials()).create_bucket("staging")
        yield object_store.BUCKET


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A model and two shards, on this machine."""
    folder = tmp_path_factory.mktemp("local")
    samples.save_model(samples.small_model(), folder / "small.keras")
    for i in range(2):
        samples.write_shard(folder / f"in-{i}.tfrecord", samples.examples(samples.random_images(20, seed=i)))
    return folder


@pytest.fixture(scope="module")
def uploaded(gs, local):
    """The same in the bucket; its root."""
    for path in local.iterdir():
        object_store.put(path, f"{gs}/{path.name}")
    return gs


def cloud(*more):
    """Flags of a job on Dataflow that is written down, and not submitted."""
    return [
        "--runner=DataflowRunner",
        "--project=my-project-1",
        "--region=us-central1",
        "--temp_location=gs://staging/tmp",
        "--template_location=gs://staging/template.json",
        f"--sdk_container_image={IMAGE}",
        *more,
    ]


def score(root, *more):
    return [
        "score",
        f"--model={root}/small.keras",
        f"--output={root}/out",
        f"--in_distribution=known={root}/in-*.tfrecord",
        "--out_distribution=noise:uniform",
        "--noise_count=10",
        "--check=false",
        *more,
    ]


def described():
    """The last job's JSON, and the pipeline that it names."""
    job = json.loads(reading.read_bytes("gs://staging/template.json"))
    where = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return job, beam_runner_api_pb2.Pipeline.FromString(reading.read_bytes(where))


@pytest.fixture(scope="module")
def template(uploaded):
    """A `score` job with a GPU: job, pipeline, what lies in the bucket."""
    assert main(score(uploaded, f"--accelerator={T4}", *cloud())) == 0
    return SimpleNamespace(
        **dict(zip(("job", "pipeline"), described(), strict=True)), listing=object_store.listing("gs://b/out/**")
    )


def steps(pipeline):
    """Name -> transform, of those that are made of no others."""
    return {t.unique_name: t for t in pipeline.components.transforms.values() if not t.subtransforms}


def with_accelerator(pipeline):
    """Names of the steps that run where there is a GPU, and the hints of those."""
    hinted = {key: dict(env.resource_hints) for key, env in pipeline.components.environments.items()}
    return {
        name: hinted[step.environment_id] for name, step in steps(pipeline).items() if hinted.get(step.environment_id)
    }


def pool(job):
    (only,) = job["environment"]["workerPools"]
    return only


def test_every_worker_takes_the_image_and_a_disk_that_holds_it(template):
    images = pool(template.job)["sdkHarnessContainerImages"]
    assert {image["containerImage"] for image in images} == {IMAGE}
    assert pool(template.job)["diskSizeGb"] == 100
    environments = template.pipeline.components.environments
    assert {image["environmentId"] for image in images} == set(environments)


def test_only_scoring_asks_for_a_gpu(template):
    assert with_accelerator(template.pipeline) == {"ScoreShards/ScoreShard/ParDo(ScoreShard)": {HINT: T4.encode()}}
    assert not [o for o in template.job["environment"].get("serviceOptions", []) if "accelerator" in o]


def test_one_process_has_the_gpu_and_four_shards_in_hand(template):
    experiments = template.job["environment"]["experiments"]
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments
    assert pool(template.job)["numThreadsPerWorker"] == 4


def test_code_comes_from_the_image_not_from_the_launcher(template):
    assert template.job["environment"]["sdkPipelineOptions"]["options"]["save_main_session"] is False
    staged = [package["name"] for package in pool(template.job)["packages"]]
    assert staged == ["submission_environment_dependencies.txt"]


def test_the_launcher_leaves_what_the_workers_need_and_waits_for_nothing(template):
    assert template.listing == ["gs://b/out/manifest.parquet", "gs://b/out/run.json"]


def test_the_job_does_not_grow_with_the_archive(template):
    assert b"in-0.tfrecord" not in template.pipeline.SerializeToString()


def test_a_template_is_told_of_without_a_job_id(uploaded, capsys):
    assert main(score(uploaded, *cloud())) == 0
    assert capsys.readouterr().out == "template written; gs://b/out/summary.json appears when the job is done\n"
    assert with_accelerator(described()[1]) == {}


def test_what_is_known_of_images_before_they_are_scored_is_where_they_are(template):
    """Images are read in the step that scores them: before it there are only the steps that list shards."""
    found = steps(template.pipeline)
    producers = {pcoll: name for name, step in found.items() for pcoll in step.outputs.values()}
    upstream, todo = set(), ["ScoreShards/ScoreShard/ParDo(ScoreShard)"]
    while todo:
        before = {producers[pcoll] for pcoll in found[todo.pop()].inputs.values()} - upstream
        upstream |= before
        todo += before
    listing = ("ReadManifest/", "ScoreShards/CheckFinished/", "ScoreShards/Balance/")
    assert upstream
    assert all(name.startswith(listing) for name in upstream)


def test_no_image_crosses_a_shuffle(tmp_path, monkeypatch):
    """All that goes from one stage to another, as the local runner encodes it, is small beside a single image."""
    shape, count = (128, 128, 3), 8
    for i in range(2):
        pictures = samples.random_images(count, shape, seed=i)
        samples.write_shard(tmp_path / f"in-{i}.tfrecord", samples.examples(pictures))
    samples.save_model(samples.small_model(shape), tmp_path / "small.keras")
    crossing = []
    for buffer in (execution.ListBuffer, execution.GroupingBuffer):

        def append(self, data, _append=buffer.append):
            crossing.append(bytes(data))
            _append(self, data)

        monkeypatch.setattr(buffer, "append", append)
    assert main(score(tmp_path)) == 0
    assert any(b"in-0.tfrecord" in data for data in crossing)
    assert not any(b"\x89PNG" in data for data in crossing)
    image_bytes = shape[0] * shape[1] * shape[2]
    assert max(map(len, crossing)) < image_bytes
    assert sum(map(len, crossing)) < 2 * count * image_bytes / 10


def test_local_runners_ignore_the_hint_and_it_is_no_matter_of_the_settings(local, tmp_path):
    command = [*score(local), f"--output={tmp_path}/out"]
    assert main([*command, f"--accelerator={T4}"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores/**/*.parquet")}
    assert len(before) == 3
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores/**/*.parquet")} == before


def test_what_the_user_says_of_workers_stands():
    given = beam_options(
        cloud(
            "--disk_size_gb=200", "--number_of_worker_harness_threads=2", "--experiments=use_multiple_sdk_containers"
        ),
        holds_model=True,
    )
    assert given.view_as(WorkerOptions).disk_size_gb == 200
    assert given.view_as(DebugOptions).number_of_worker_harness_threads == 2
    assert given.view_as(DebugOptions).experiments == ["use_multiple_sdk_containers"]


def test_processes_may_share_a_gpu_that_is_made_for_it(uploaded):
    shared = f"--accelerator={T4};use_nvidia_mps"
    assert main(score(uploaded, shared, *cloud())) == 0
    assert "no_use_multiple_sdk_containers" not in described()[0]["environment"]["experiments"]


def test_jobs_without_a_model_keep_dataflows_own_processes():
    given = beam_options(cloud())
    assert given.view_as(WorkerOptions).disk_size_gb == 100
    assert given.view_as(DebugOptions).experiments is None
    assert given.view_as(DebugOptions).number_of_worker_harness_threads is None


def test_other_runners_get_no_defaults_of_dataflow():
    given = beam_options([], holds_model=True)
    assert given.view_as(WorkerOptions).disk_size_gb is None
    assert given.view_as(DebugOptions).experiments is None


def test_tune_asks_for_the_gpu_too_and_does_not_measure_the_launcher(uploaded, capsys):
    command = ["tune", f"--model={uploaded}/small.keras", f"--in_distribution=known={uploaded}/in-*.tfrecord"]
    assert main([*command, f"--output={uploaded}/c.json", f"--accelerator={T4}", "--check=false", *cloud()]) == 0
    assert list(with_accelerator(described()[1])) == ["ScoreShards/ScoreShard/ParDo(ScoreShard)"]
    told = capsys.readouterr()
    assert told.out.startswith("template written; gs://b/c.json appears when the job is done")
    assert "passes per image" not in told.err


def test_the_other_jobs_are_written_down_too(uploaded, capsys):
    """Scored and calibrated here, the rest on Dataflow."""
    calibration, grid = f"{uploaded}/calibration.json", ["--temperatures=1000", "--epsilons=0.001"]
    inside = f"--in_distribution=known={uploaded}/in-*.tfrecord"
    model = f"--model={uploaded}/small.keras"
    assert main(["tune", model, inside, f"--output={calibration}", "--check=false", *grid]) == 0
    scored = f"{uploaded}/scored"
    assert main(["score", model, inside, f"--output={scored}", f"--calibration={calibration}", "--check=false"]) == 0
    before = reading.read_bytes(f"{scored}/metrics.json")
    capsys.readouterr()
    for job in (
        ["evaluate", f"--scores={scored}"],
        ["flag", f"--scores={scored}", f"--calibration={calibration}", "--detector=odin"],
        ["ingest", f"--images={uploaded}/in-*.tfrecord", f"--output={uploaded}/again/all", "--shards=1"],
    ):
        assert main([*job, *cloud()]) == 0
        assert capsys.readouterr().out.startswith("template written; gs://b/")
        assert pool(described()[0])["diskSizeGb"] == 100
    assert reading.read_bytes(f"{scored}/metrics.json") == before


def test_a_job_that_was_submitted_is_named():
    submitted = DataflowPipelineResult(SimpleNamespace(id="2026-01-01_00_00_00-1"), None)
    assert dataflow.handed_over(submitted) == "submitted as job 2026-01-01_00_00_00-1"
    with beam.Pipeline("FnApiRunner") as pipeline:
        pipeline | beam.Create([1])
    assert dataflow.handed_over(pipeline.result) is None


LOCAL = {
    "model": score("gs://b", "--model={here}/small.keras"),
    "output": score("gs://b", "--output={here}/out"),
    "in_distribution": score("gs://b", "--in_distribution=here={here}/in-*.tfrecord"),
    "input": score("gs://b", "--input=files:{here}/*.png"),
    "tfds_data_dir": score("gs://b", "--input=tfds:mnist/test"),
    "output of tune": ["tune", "--model=gs://b/m.keras", "--in_distribution=gs://b/*", "--output={here}/c.json"],
    "scores": ["evaluate", "--scores={here}/out"],
    "scores of flag": ["flag", "--scores={here}/out", "--calibration=gs://b/c.json"],
    "scores of report": ["report", "--scores={here}/out"],
    "images": ["ingest", "--images=gs://b/a/*,{here}/b/", "--output=gs://b/p", "--shards=1"],
    "output of ingest": ["ingest", "--images=gs://b/a/*", "--output={here}/p", "--shards=1"],
}


@pytest.mark.parametrize("what", LOCAL)
def test_what_workers_touch_must_not_be_local(what, tmp_path, capsys):
    command = [word.format(here=tmp_path) for word in LOCAL[what]]
    more = [word for word in cloud() if what != "scores of report" or "template" not in word]
    assert main([*command, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{what.partition(' ')[0]} " in line
    assert "is on this machine" in line
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_images_may_be_local_but_not_the_images(uploaded, tmp_path, capsys):
    table = tmp_path / "images.csv"
    table.write_text("uri\ngs://b/a.png\nphotos/b.png\n")
    command = [*score(uploaded), f"--output={uploaded}/listed", f"--input=manifest:{table}", *cloud()]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"lists {tmp_path}/photos/b.png, which is on this machine" in line
    assert object_store.listing("gs://b/listed/**") == []


def test_what_the_launcher_alone_reads_may_be_local(tmp_path):
    parsed = command_line.parse("score", [*score("gs://b")[1:], f"--calibration={tmp_path}/c.json", *cloud()])
    assert parsed.calibrated
    command_line.parse("flag", ["--scores=gs://b/out", f"--calibration={tmp_path}/c.json", *cloud()])


REFUSED = {
    "--project": ["--project="],
    "--temp_location=gs://BUCKET/FOLDER": ["--temp_location=/tmp"],
    "--sdk_container_image": ["--sdk_container_image="],
    "worker_accelerator, not both": [f"--accelerator={T4}", WORKER_ACCELERATOR],
    "--experiments=worker_accelerator, not both": [f"--accelerator={T4}", f"--experiments=worker_accelerator={T4}"],
    "--resource_hints=accelerator, not both": [f"--accelerator={T4}", f"--resource_hints=accelerator={T4}"],
    "is not of the form type:TYPE;count:N": ["--accelerator=nvidia-tesla-t4"],
    "use_nvidia_mps is for several": [
        f"--accelerator={T4};use_nvidia_mps",
        "--experiments=no_use_multiple_sdk_containers",
    ],
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_dataflow_would_stumble_over_is_refused_at_launch(words, capsys):
    assert main(score("gs://b", *cloud(*REFUSED[words]))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_report_is_no_template(capsys):
    assert main(["report", "--scores=gs://b/out", *cloud()]) == 2
    assert "leave --template_location out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["DataflowRunner", "dataflow", "dataflowrunner"])
def test_dataflow_goes_by_all_names_that_beam_knows(name):
    assert dataflow.on_dataflow(beam_options([f"--runner={name}"]))
    assert not dataflow.on_dataflow(beam_options(["--runner=FlinkRunner"]))
