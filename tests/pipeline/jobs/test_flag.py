"""`odin-beam flag`: from scores and a calibration to a flag per image."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.flag import FlagOptions
from odin_beam.pipeline.jobs.flag import refuse_other_scores
from odin_beam.pipeline.main import main
from odin_beam.transforms.calibration.calibration_file import Calibration
from odin_beam.transforms.scoring.settings import ScoreSettings
from tests.helpers import samples

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a calibration and with scores made by it."""
    folder = tmp_path_factory.mktemp("flag")
    model = samples.save_model(samples.small_model(), folder / "small.keras")
    for name, count, seed in (("val-0", 320, 0), ("in-0", 60, 1), ("in-1", 60, 2), ("out-0", 80, 3)):
        images = samples.random_images(count, seed=seed)
        if name == "out-0":
            images //= 8
        samples.write_shard(folder / f"{name}.tfrecord", samples.examples(images, [0] * count))
    grid = ["--temperatures=10", "--epsilons=0,0.01", "--objective=auroc", "--per_class"]
    validation = [f"--in_distribution=validation={folder}/val-*", f"--out_distribution={folder}/out-*"]
    assert main(["tune", f"--model={model}", f"--output={folder}/cal.json", *validation, *grid]) == 0
    sources = [f"--in_distribution=known={folder}/in-*", f"--out_distribution=foreign={folder}/out-*"]
    score = ["score", f"--model={model}", f"--calibration={folder}/cal.json"]
    assert main([*score, f"--output={folder}/scores", *sources]) == 0
    assert main([*score, f"--output={folder}/archive", f"--input=photos={folder}/*-0.tfrecord"]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "scores", tmp_path / "scores")
    shutil.copytree(made / "archive", tmp_path / "archive")
    shutil.copy(made / "cal.json", tmp_path)
    # Shards are named by full path, which the copies do not change.
    return tmp_path


def flag(folder, *more, scores="scores"):
    return main(["flag", f"--scores={folder}/{scores}", f"--calibration={folder}/cal.json", *more])


def calibration(folder):
    return json.loads((folder / "cal.json").read_text())


def read(folder, what="flags", scores="scores"):
    table = ds.dataset(f"{folder}/{scores}/{what}", partitioning="hive").to_table()
    return table.sort_by([("source", "ascending"), ("shard", "ascending"), ("index", "ascending")])


def test_every_scored_image_has_a_flag_by_the_threshold_of_the_calibration(folder, capsys):
    assert flag(folder, "--detector=odin") == 0
    flags, scores = read(folder), read(folder, "scores")
    for name in ("source", "shard", "index", "id", "prediction"):
        assert flags[name].to_pylist() == scores[name].to_pylist()
    content = calibration(folder)
    threshold = {row["tpr"]: row for row in content["thresholds"]["odin"]}[0.95]["threshold"]
    odin = scores["odin"].to_numpy()
    assert np.array_equal(flags["score"].to_numpy(), odin)
    assert flags["is_ood"].to_pylist() == (odin < threshold).tolist()
    said = json.loads((folder / "scores/flags.json").read_text())
    inside = np.array(scores["source"].to_pylist()) == "known"
    assert said["sources"]["known"]["realised_tpr"] == pytest.approx((odin[inside] >= threshold).mean())
    assert said["sources"]["foreign"]["realised_fpr"] == pytest.approx((odin[~inside] >= threshold).mean())
    text = capsys.readouterr().out
    count = content["scores"]["odin"]["count"]
    # One half of them.
    assert 130 <= count <= 190
    assert f"TPR 0.95 of {count} images of validation" in text
    assert f"FPR {100 * said['sources']['foreign']['realised_fpr']:.2f} %" in text


def test_it_needs_no_tensorflow_and_leaves_nothing_behind(folder):
    script = f"""
import sys
from odin_beam.pipeline.main import main
code = main(["flag", "--scores={folder}/scores", "--calibration={folder}/cal.json"])
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "scores/odin-beam-tmp").exists()


def test_another_rule_replaces_all_flags(folder):
    assert flag(folder, "--tpr=0.99", "--detector=energy") == 0
    lenient = read(folder)["is_ood"].to_pylist()
    (folder / "scores/flags/source=known/of-an-input-since-removed.parquet").write_bytes(b"")
    assert flag(folder, "--tpr=0.5", "--detector=energy") == 0
    strict = read(folder)["is_ood"].to_pylist()
    assert len(strict) == len(lenient) == 200
    assert sum(strict) > sum(lenient)
    assert json.loads((folder / "scores/flags.json").read_text())["rule"]["tpr"] == 0.5


def test_an_archive_of_unknown_images_is_flagged_at_a_false_discovery_rate(folder, capsys):
    assert flag(folder, "--fdr=0.2", scores="archive") == 0
    flags = read(folder, scores="archive")
    p_values, flagged = flags["p_value"].to_numpy(), flags["is_ood"].to_numpy(zero_copy_only=False)
    # Benjamini and Hochberg's rule, spelled out.
    ranked = np.sort(p_values)
    passing = ranked[ranked <= 0.2 * np.arange(1, len(ranked) + 1) / len(ranked)]
    assert np.array_equal(flagged, p_values <= (passing[-1] if len(passing) else 0))
    assert flagged.any()
    least = 1 / (calibration(folder)["scores"]["odin"]["count"] + 1)
    assert f"1/(n + 1) = {least:.3g}" in capsys.readouterr().out


def test_the_last_word_is_a_verdict_on_the_archive(folder, capsys):
    assert flag(folder, scores="archive") == 0
    photos = json.loads((folder / "archive/flags.json").read_text())["sources"]["photos"]
    low, high = photos["false_flags_low"], photos["false_flags_high"]
    assert (
        f"\n\nphotos: {photos['flagged']} of 460 flagged, {low} to {high} expected if all were like the calibration "
        "images: "
    ) in capsys.readouterr().out


def test_flags_of_an_earlier_version_are_not_shown(folder, capsys):
    assert flag(folder) == 0
    path = folder / "scores/flags.json"
    content = json.loads(path.read_text())
    del content["together"]
    path.write_text(json.dumps(content))
    assert main(["evaluate", f"--scores={folder}/scores"]) == 0
    assert "flags are of an earlier version: run `odin-beam flag` again" in capsys.readouterr().out


def test_a_true_positive_rate_beyond_the_calibration_is_warned_of(folder, capsys):
    assert flag(folder, "--tpr=0.9999") == 0
    count = calibration(folder)["scores"]["odin"]["count"]
    assert f"{count} calibration images cannot distinguish a TPR of 0.9999 from 1" in capsys.readouterr().out


def test_classes_with_enough_images_have_their_own_thresholds(folder, capsys):
    assert flag(folder, "--per_class") == 0
    content = calibration(folder)
    own = content["class_scores"]["odin"]
    assert own, "the fixture has a class of at least 100 images"
    assert f"{len(own)} classes calibrated separately" in capsys.readouterr().out


def test_images_of_rare_classes_have_no_flag_where_even_the_pool_is_small(folder, capsys):
    assert flag(folder, "--per_class") == 0
    content = calibration(folder)
    assert content["rest_scores"] == {}, "the fixture has fewer than 100 images of all other classes"
    flags = read(folder)
    rare = ~np.isin(flags["prediction"].to_numpy(), [int(c) for c in content["class_scores"]["gen"]])
    assert rare.any()
    assert np.array_equal(flags["is_ood"].is_null().to_numpy(), rare)
    assert "images have no flag: the calibration has fewer than 100" in capsys.readouterr().out


def test_evaluate_and_report_show_the_realised_rates(folder, capsys):
    assert flag(folder) == 0
    chosen, _, table = capsys.readouterr().out.split("\n\nflags:")[0].partition("\n")
    assert chosen.startswith("detector: gen, recommended by ")
    assert main(["evaluate", f"--scores={folder}/scores"]) == 0
    assert table in capsys.readouterr().out
    assert main(["report", f"--scores={folder}/scores"]) == 0
    page = (folder / "scores/report/report.html").read_text()
    rate = json.loads((folder / "scores/flags.json").read_text())["sources"]["known"]["realised_tpr"]
    assert f"<td>{100 * rate:.2f} %</td>" in page
    known = json.loads((folder / "scores/flags.json").read_text())["sources"]["known"]
    assert f"{known['flagged']:,} of {known['images']:,} known images in known look foreign: false alarms." in page
    assert "odin-beam review" in page


def test_flags_of_other_scores_are_not_shown(folder, capsys):
    assert flag(folder) == 0
    path = folder / "scores/flags.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores_state": "before a shard was replaced"}))
    assert main(["evaluate", f"--scores={folder}/scores"]) == 0
    out = capsys.readouterr().out
    assert "run `odin-beam flag` again" in out.partition("FPR@95TPR and det. error")[2]


def test_shards_without_scores_are_said_and_the_others_flagged(folder, capsys):
    next((folder / "scores/scores/source=known").glob("in-1*")).unlink()
    assert flag(folder) == 3
    assert "1 shards have no flags; run `score`" in capsys.readouterr().out
    assert read(folder).num_rows == 140
    assert not json.loads((folder / "scores/flags.json").read_text())["complete"]


def edited(folder, change):
    path = folder / "cal.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda c: c["settings"].update(model_digest="0"), [], "was calibrated for a different model"),
        (lambda c: c["settings"]["preprocessing"].update(name="byte"), [], "was scored with preprocessing"),
        (
            lambda c: c["settings"]["odin"].update(temperature=2.0),
            ["--detector=odin"],
            "was scored at temperature 10, but",
        ),
        (
            lambda c: c["scores"].pop("energy"),
            ["--detector=energy"],
            "energy: not available for this model's head; the calibration has odin",
        ),
        (lambda c: c.update(class_scores={}), ["--per_class"], "no class of at least 100 images"),
        (lambda c: c.pop("rest_scores"), ["--per_class"], "run the same `tune` command again"),
        (
            lambda c: c["scores"]["odin"].update(at_most=[3, 2]),
            [],
            "is not a calibration.json of `tune`, or is",
        ),
        (lambda c: c.clear(), [], "is not a calibration.json"),
        (lambda c: None, ["--tpr=0.9", "--fdr=0.1"], "give --tpr or --fdr, not both"),
        (lambda c: None, ["--tpr=1.5"], "1.5 must be above 0 and below 1"),
        (lambda c: None, ["--fdr=nan"], "nan must be above 0 and below 1"),
        (lambda c: None, ["--detector=mahalanobis"], "invalid choice"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_touches_nothing(folder, capsys, change, more, message):
    assert flag(folder) == 0
    capsys.readouterr()
    edited(folder, change)
    assert flag(folder, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (folder / "scores/flags.json").exists()


def test_flags_of_two_detectors_stand_side_by_side(folder, capsys):
    assert flag(folder) == 0
    before = read(folder)
    capsys.readouterr()
    assert flag(folder, "--detector=energy") == 2
    told = "scores/flags has flags by gen: to keep both, give these a name, such as --name energy"
    assert told in capsys.readouterr().err
    assert flag(folder, "--detector=energy", "--name=energy") == 0
    assert read(folder) == before
    named = read(folder, "flags-energy")
    assert named["score"].to_pylist() == read(folder, "scores")["energy"].to_pylist()
    assert json.loads((folder / "scores/flags-energy.json").read_text())["detector"] == "energy"
    capsys.readouterr()
    assert main(["evaluate", f"--scores={folder}/scores"]) == 0
    shown = capsys.readouterr().out
    assert "flags energy:" in shown
    assert shown.count(f"of {calibration(folder)['scores']['gen']['count']} images of validation") == 2
    assert flag(folder, "--name=../x") == 2
    assert "at most 40 letters, digits and _" in capsys.readouterr().err


def test_the_report_shows_all_flags_and_one_detector_throughout(folder, capsys):
    assert flag(folder, "--detector=energy") == 0
    assert flag(folder, "--tpr=0.9", "--detector=energy", "--name=strict") == 0
    assert main(["report", f"--scores={folder}/scores"]) == 0
    page = (folder / "scores/report/report.html").read_text()
    assert "<h2>Flags</h2>" in page
    assert "<h2>Flags strict</h2>" in page
    captions = re.findall(r"<p>[^<]*: seen as ([^<]*)</p>", page)
    assert captions
    assert all("energy" in caption and "odin" not in caption for caption in captions)
    assert "of each predicted class that are flagged by energy" in page


@pytest.mark.parametrize("name", ["x; touch pwned", "\u00e9", "a" * 41, "", "a-b"])
def test_flags_of_a_name_that_cannot_be_given_are_not_shown(folder, capsys, name):
    assert flag(folder, "--name=strict") == 0
    shutil.copy(folder / "scores/flags-strict.json", folder / f"scores/flags-{name}.json")
    capsys.readouterr()
    assert main(["evaluate", f"--scores={folder}/scores"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("flagged by ") == shown.count("flags strict:") == 1
    for job in ("flag", "top", "review"):
        more = {"flag": [f"--calibration={folder}/cal.json"], "review": ["--labels=l.csv"]}.get(job, [])
        assert main([job, f"--scores={folder}/scores", *more, f"--name={name}"]) == 2
        assert f"argument --name: {name}: at most 40 letters, digits and _ (see" in capsys.readouterr().err


def test_starting_afresh_removes_named_flags_too(folder, made, capsys):
    assert flag(folder, "--name=strict") == 0
    sources = [f"--in_distribution=known={made}/in-*", f"--out_distribution=foreign={made}/out-*"]
    score = ["score", f"--model={made}/small.keras", f"--calibration={folder}/cal.json", "--overwrite"]
    assert main([*score, f"--output={folder}/scores", *sources]) == 0
    assert not list(folder.glob("scores/flags*.json"))
    assert not list(folder.glob("scores/flags*/*/*.parquet"))


def test_another_temperature_matters_to_odin_alone(folder):
    edited(folder, lambda c: c["settings"]["odin"].update(temperature=2.0))
    assert flag(folder, "--detector=msp") == 0


def test_no_folder_of_scores_and_no_calibration_are_usage_errors(folder, capsys):
    assert flag(folder, scores="nowhere") == 2
    assert "not an output folder of `score`" in capsys.readouterr().err
    (folder / "cal.json").unlink()
    assert flag(folder) == 2
    assert capsys.readouterr().err.startswith("odin-beam flag: --calibration: ")


def test_scores_of_another_reference_are_refused():
    settings = ScoreSettings("m", "d", detectors=("mds", "msp"), reference="r.npz", reference_digest="a")
    calibration = Calibration({}, settings, {"mds": None, "msp": None}, {})
    options = FlagOptions("scores", "cal.json", "mds", 0.95, None, False)
    other = replace(settings, reference_digest="b").identity()
    refuse_other_scores(options, settings.identity(), calibration)
    refuse_other_scores(replace(options, detector="msp"), other, calibration)
    with pytest.raises(UsageError, match="not scored with the reference that"):
        refuse_other_scores(options, other, calibration)
