"""What the first images show before a run starts."""

import os

import pytest

from odin_beam.pipeline.launch import quick_check
from odin_beam.pipeline.launch.first_look import converted_colours
from odin_beam.pipeline.main import main
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples

GREY, COLOUR = (samples.random_images(3, (8, 8, channels)) for channels in (1, 3))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return samples.save_model(samples.small_model(), tmp_path_factory.mktemp("model") / "colour.keras")


def shards(folder):
    """Two sources: one grey with one image in colour, the other in colour, each with a record that is no image."""
    kept = [*samples.examples(GREY), *samples.examples(COLOUR[:1]), b"damaged", samples.example(image=b"text")]
    grey = samples.write_shard(folder / "grey.tfrecord", kept)
    colour = samples.write_shard(folder / "colour.tfrecord", samples.examples(COLOUR))
    return [samples.shard(grey, "old"), samples.shard(colour, "new")]


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (
            3,
            "grey images become colour by repetition, since the model's input has 3 channels: "
            "3 of the 4 looked at in old",
        ),
        (
            1,
            "colour images become grey by luma, since the model's input has 1 channel: "
            "1 of the 4 looked at in old, 3 of the 3 looked at in new",
        ),
    ],
)
def test_images_converted_between_grey_and_colour_are_counted(tmp_path, channels, said):
    assert converted_colours(shards(tmp_path), str(tmp_path), FeatureNames(), (8, 8, channels)) == said


def test_nothing_is_said_where_nothing_is_converted(tmp_path):
    assert converted_colours(shards(tmp_path)[1:], str(tmp_path), FeatureNames(), (8, 8, 3)) is None


@pytest.mark.parametrize(
    "flags",
    [
        ["check", "--preprocessing=unit"],
        ["score", "--output={d}/out"],
        ["score", "--output={d}/out", "--check=false"],
        ["tune", "--output={d}/cal.json", "--temperatures=1", "--epsilons=0"],
    ],
)
def test_every_job_that_scores_says_once_that_grey_becomes_colour(model, tmp_path, capfd, flags):
    for i in range(2):
        samples.write_shard(tmp_path / f"grey-{i}.tfrecord", samples.examples(samples.random_images(20, (8, 8, 1), i)))
    argv = [flag.format(d=tmp_path) for flag in flags]
    assert main([*argv, f"--model={model}", f"--in_distribution=mine={tmp_path}{os.sep}grey-*"]) in (0, 3)
    err = capfd.readouterr().err
    assert err.count("grey images become colour") == 1
    assert "16 of the 16 looked at in mine" in err


@pytest.mark.parametrize("job", [["score", "--output={d}/out"], ["tune", "--output={d}/c.json", "--temperatures=1"]])
@pytest.mark.parametrize(
    ("label", "said"),
    [
        (lambda i: 1 + i // 50, "WARNING: labels run from 1 to 4, the model's classes from 0 to 3: count from 0"),
        (lambda i: 100 + i // 50, "WARNING: labels run to 103, the model has 4 classes"),
        (lambda i: "cat", "source known: no labels: feature 'label' is bytes_list of 1 ('cat')"),
    ],
)
def test_what_the_labels_show_is_said_without_a_check(model, tmp_path, capfd, monkeypatch, job, label, said):
    def passed(*_):
        raise AssertionError("the images went through the model")

    monkeypatch.setattr(quick_check, "quick_check", passed)
    payloads = samples.examples(samples.random_images(200), map(label, range(200)))
    samples.write_shard(tmp_path / "in.tfrecord", payloads)
    argv = [*(flag.format(d=tmp_path) for flag in job), f"--in_distribution=known={tmp_path}/in.tfrecord"]
    assert main([*argv, f"--model={model}", "--check=false"]) in (0, 3)
    assert capfd.readouterr().err.count(said) == 1
