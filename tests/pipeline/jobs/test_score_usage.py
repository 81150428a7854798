"""`odin-beam score`: its flags, and what it refuses or stops at in one line."""

import shutil
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.pipeline.main import main
from odin_beam.transforms import errors
from odin_beam.transforms.scoring import score_shards
from tests.helpers import samples
from tests.helpers.score_runs import command, last_line, read


def test_an_output_that_cannot_be_written_stops_it_with_one_line(model, archive, capsys):
    (archive / "file").write_text("in the way")
    assert main([*command(model, archive), f"--output={archive}/file/out"]) == 1
    assert f"cannot write {archive}/file/out" in last_line(capsys)


@pytest.fixture(scope="module")
def no_classifiers(tmp_path_factory):
    """Paths of model files that are none of a classifier of images."""
    folder = tmp_path_factory.mktemp("no_classifiers")
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    models = {
        "vector.keras": keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)]),
        "one.keras": keras.Model(inputs, keras.layers.Dense(1)(flat)),
        "map.keras": keras.Model(inputs, keras.layers.Conv2D(4, 1)(inputs)),
    }
    for name, bad in models.items():
        bad.save(folder / name)
    for name in ("garbage.keras", "garbage.h5"):
        (folder / name).write_bytes(b"garbage" * 100)
    return list(folder.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input={d}/none-*.tfrecord"], "matches no file"),
        (["--input=2bad={d}/in-*.tfrecord"], "a NAME begins with a letter"),
        (["--input=known={d}/new-*.tfrecord"], "'known' is given as in_distribution and as input"),
        (["--input=x="], "has no pattern"),
        (["--image_feature=picture"], "no feature 'picture'; features there: image, label"),
        (["--temperature=0"], "temperature must be a number above 0"),
        (["--temperature=nan"], "temperature must be a number above 0"),
        (["--epsilon=-0.1"], "epsilon must be a number of at least 0"),
        (["--epsilon=2"], "did you mean 2/255 = 0.007843?"),
        (["--epsilon=nan"], "epsilon must be a number of at least 0"),
        (["--epsilon=much"], "'much' is not a number"),
        (["--temprature=10"], "unknown flag --temprature; did you mean --temperature?"),
        (["--temp=10"], "unknown flag --temp; did you mean --temperature?"),
        (["--batch_size=abc"], "'abc' is not a whole number"),
        (["--image_size=a,b"], "'a' is not a whole number"),
        (["--mean=a,b", "--std=1,1,1"], "'a' is not a number"),
        (["--max_rejected=most"], "'most' is not a number"),
        (["--output={d}/in-0.tfrecord"], "in-0.tfrecord is a file: give a folder"),
        (["--output={d}/o*t"], "must not hold *, ? or ["),
        (["stray"], "unknown argument stray"),
        (["--model={d}/gone.keras"], "gone.keras"),
        (["--model={d}/in-0.tfrecord"], "its name must end in .keras"),
        (["--model={d}/garbage.keras"], "cannot be loaded"),
        (["--model={d}/garbage.h5"], "cannot be loaded"),
        (["--model={d}/vector.keras"], "images need one of shape"),
        (["--model={d}/one.keras"], "2 or more classes"),
        (["--model={d}/map.keras"], "2 or more classes"),
        (["--preprocessing=imagenet"], "preprocessing is one of unit, byte, tf, torch, caffe"),
        (["--mean=0.5,0.5,0.5"], "--mean and --std go together"),
        (["--mean=0.5", "--std=0.5"], "preprocessing mean_std is for 1 channels"),
        (["--preprocessing=tf", "--mean=0.5", "--std=0.5"], "not both"),
        (["--mean=0.5,0.5,0.5", "--std=1,0,1"], "std above 0"),
        (["--image_size=16,16"], "contradicts the model's input"),
        (["--resize=squash"], "resize is one of stretch, shorter_side, none"),
        (["--resize=shorter_side"], "needs crop center"),
        (["--detectors=odin,oden"], "not oden"),
        (["--batch_size=0"], "must be at least 1"),
        (["--max_rejected=2"], "must be between 0 and 1"),
        (["--overwrite=maybe"], "neither true nor false"),
        (["--input=pictures={d}/picture-*.png"], "looks like a PNG image; `odin-beam ingest`"),
        (["--input=files:{d}/new-*"], "that are not a readable PNG, JPEG, GIF, BMP or WebP"),
        (["--input=t={d}/bare.tfrecord"], "not a tf.train.Example, but a serialized tensor, float32 of 8 x 8 x 3"),
        (
            ["--input=t={d}/inside.tfrecord"],
            "feature 'image' is not PNG, JPEG, GIF, BMP or WebP nor raw pixels, but a ser",
        ),
        (["--input=z={d}/zlib.tfrecord"], "looks like zlib: write it with GZIP, or without compression"),
        (["--input=files:{d}/page.jpg"], "WebP, but an HTML page"),
        (["--input=files:{d}/empty.jpg"], "WebP, but an empty file"),
        (["--input=manifest:{d}/absent.csv"], "absent.csv: No such file"),
        (["--input=manifest:{d}/list.csv"], "gone.png: No such file or directory; the first images listed are not"),
        (["--input=noise:pink"], "the kinds of noise are gaussian and uniform"),
        (["--input=tfds:huge/test", "--tfds_data_dir={d}"], "run `tfds build huge --data_dir"),
    ],
)
def test_a_usage_error_is_one_line_code_2_and_nothing_written(model, archive, no_classifiers, capsys, flags, message):
    for path in no_classifiers:
        shutil.copy(path, archive)
    (archive / "picture-0.png").write_bytes(samples.encoded(samples.random_images(1)[0]))
    tensor = tf.io.serialize_tensor(np.zeros((8, 8, 3), np.float32)).numpy()
    shard = samples.write_shard(archive / "bare.tfrecord", [tensor] * 3)
    samples.write_shard(archive / "inside.tfrecord", [samples.example(image=tensor)])
    (archive / "zlib.tfrecord").write_bytes(zlib.compress(shard.read_bytes()))
    (archive / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (archive / "empty.jpg").write_bytes(b"")
    (archive / "list.csv").write_text("uri\ngone.png\n")
    assert main(command(model, archive, *(flag.format(d=archive) for flag in flags))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (archive / "out").exists()


def test_flags_may_have_dashes_be_repeated_or_hold_commas(model, archive):
    code = main(
        [
            "score",
            "--model",
            model,
            "--output",
            f"{archive}/out",
            f"--in-distribution=a={archive}/in-0*,a={archive}/in-1*",
            f"--in_distribution=b={archive}/in-2*",
            "--detectors=msp",
            "--detectors=odin",
            "--batch-size=16",
            "--antialias=true",
        ]
    )
    assert code == 0
    summary = read(archive / "out", "summary.json")
    assert {name: source["scored"] for name, source in summary["sources"].items()} == {"a": 40, "b": 10}
    assert summary["settings"]["detectors"] == ["msp", "odin"]
    assert summary["settings"]["geometry"]["antialias"] is True


def test_what_stops_a_run_behind_a_job_server_is_one_line(model, archive, monkeypatch, caplog, capsys):
    def score_shard(*_):
        raise errors.OutputError("the disk is full")

    monkeypatch.setattr(score_shards, "score_shard", score_shard)
    cluster = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    assert main(command(model, archive, *cluster)) == 1
    assert "odin-beam score: stopped: the disk is full; to resume" in capsys.readouterr().err
    assert "Traceback" not in caplog.text
