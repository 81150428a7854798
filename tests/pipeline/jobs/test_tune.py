"""`odin-beam tune` as its user meets it, and `score --calibration` after it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from odin_beam.pipeline.main import main
from odin_beam.transforms.calibration.calibration_file import read_calibration
from odin_beam.transforms.errors import CalibrationError
from tests.helpers import samples


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """600 images of gentle gradients in two shards, and 400 of plain noise."""
    folder = tmp_path_factory.mktemp("archive")
    ramp = np.linspace(0, 200, 8).astype(np.uint8)[None, :, None, None] + samples.random_images(600, seed=1) // 5
    for i in range(2):
        part = ramp[300 * i : 300 * i + 300]
        samples.write_shard(folder / f"in-{i}.tfrecord", samples.examples(part))
    samples.write_shard(folder / "out-0.tfrecord", samples.examples(samples.random_images(400, seed=2)))
    return folder


def tune(model, archive, output, *more):
    return main(
        ["tune", f"--model={model}", f"--in_distribution=known={archive}/in-*.tfrecord", f"--output={output}", *more]
    )


GRID = ["--temperatures=1,1000", "--epsilons=0,0.002,0.01"]


@pytest.fixture(scope="module")
def tuned(model, archive, tmp_path_factory):
    output = tmp_path_factory.mktemp("tuned") / "cal.json"
    assert tune(model, archive, output, f"--out_distribution=foreign={archive}/out-*", *GRID) == 0
    return output


def all_scores(folder):
    """The rows of a run by source and id."""
    files = sorted(folder.glob("scores/*/*.parquet"))
    tables = [pq.read_table(path, partitioning=None) for path in files]
    tables = [
        table.append_column("source", pa.array([path.parent.name.removeprefix("source=")] * len(table)))
        for path, table in zip(files, tables, strict=True)
    ]
    return pa.concat_tables(tables).sort_by([("source", "ascending"), ("id", "ascending")])


def test_each_cell_is_what_score_gives_with_its_settings(model, archive, tuned, tmp_path):
    cells = {(c["temperature"], c["epsilon"]): c["cell"] for c in json.loads(tuned.read_text())["grid"]}
    assert len(cells) == 6
    grid = all_scores(tuned.with_name("cal-tuning"))
    for i, (temperature, epsilon) in enumerate([(1, 0), (1000, 0.002), (1, 0.01)]):
        output = tmp_path / str(i)
        code = main(
            [
                *("score", f"--model={model}", f"--output={output}"),
                *(f"--in_distribution=known={archive}/in-*", f"--out_distribution=foreign={archive}/out-*"),
                *(f"--temperature={temperature}", f"--epsilon={epsilon}"),
            ]
        )
        assert code == 0
        alone = all_scores(output)
        assert grid["id"].equals(alone["id"])
        np.testing.assert_allclose(grid[cells[temperature, epsilon]], alone["odin"], rtol=1e-6)


def test_the_calibration_holds_what_later_jobs_need(tuned, model):
    found = read_calibration(str(tuned))
    assert found.content["model"] == model
    assert found.content["objective"] == {"name": "fpr_at_95_tpr", "against": ["foreign"], "surrogates": False}
    # One half of the images.
    assert found.scores["odin"].count == found.scores["msp"].count == pytest.approx(300, abs=60)
    assert found.content["sources"]["known"]["scored"] == 600
    assert found.content["cost"]["passes_per_image"] == {"forward": 5, "gradient": 2}
    assert {row["tpr"] for row in found.content["thresholds"]["energy"]} >= {0.5, 0.95, 0.9999}
    assert (found.temperature, found.epsilon) in {(t, e) for t in (1, 1000) for e in (0, 0.002, 0.01)}


def test_the_pictures_are_there(tuned):
    for name in ("grid", "epsilon"):
        assert min(Image.open(tuned.with_name(f"cal-{name}.png")).size) > 200


def test_a_rerun_scores_nothing_again_and_another_objective_needs_no_new_scores(model, archive, tuned, capsys):
    before = {path: path.stat().st_mtime_ns for path in tuned.with_name("cal-tuning").rglob("scores/**/*.parquet")}
    assert len(before) == 3
    foreign = f"--out_distribution=foreign={archive}/out-*"
    assert tune(model, archive, tuned, foreign, *GRID, "--objective=auroc") == 0
    assert "AUROC, %, against foreign" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads(tuned.read_text())["objective"]["name"] == "auroc"


def test_without_foreign_images_surrogates_stand_in_and_are_called_so(model, archive, tmp_path, capsys):
    output = tmp_path / "cal.json"
    assert tune(model, archive, output, "--temperatures=1", "--epsilons=0") == 0
    content = json.loads(output.read_text())
    names = [f"surrogate_{kind}" for kind in ("patches", "averages", "halves", "leave_class_out")]
    assert content["objective"] == {"name": "auroc", "against": sorted(names), "surrogates": True}
    assert [content["sources"][name]["role"] for name in names] == ["surrogate"] * 4
    assert content["sources"]["surrogate_patches"]["scored"] == 600
    assert 200 <= content["sources"]["surrogate_halves"]["scored"] <= 300
    printed = capsys.readouterr().out
    assert "are surrogates" in printed
    assert "recommended detector: " in printed

    assert tune(model, archive, tmp_path / "one.json", "--temperatures=1", "--epsilons=0", "--surrogate=patches") == 0
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["objective"]["against"] == ["surrogate_patches"]
    assert one["recommendation"]["detector"] == "gen"
    assert "no evidence" in one["recommendation"]["reason"]


def test_leaving_a_class_out_changes_scores_but_not_pixels(model, archive, tmp_path):
    output = tmp_path / "cal.json"
    flags = ["--temperatures=1", "--epsilons=0,0.01", "--surrogate=leave_class_out"]
    assert tune(model, archive, output, *flags) == 0
    rows = all_scores(tmp_path / "cal-tuning")
    known, without = (rows.filter(pc.equal(rows["source"], name)) for name in ("known", "surrogate_leave_class_out"))
    assert known["id"].equals(without["id"])
    assert not pc.any(pc.equal(known["prediction"], without["prediction"])).as_py()
    assert pc.min(without["margin"]).as_py() >= 0
    for column in ("max_logit", "energy"):
        assert pc.all(pc.less(without[column], known[column])).as_py()
    assert pc.all(pc.is_finite(without["odin_T1_eps0p01"])).as_py()


def test_flag_takes_the_recommended_detector(model, archive, tuned, tmp_path, capsys):
    argv = ["score", f"--model={model}", f"--input={archive}/out-*", f"--calibration={tuned}", f"--output={tmp_path}/o"]
    assert main(argv) == 0
    assert main(["flag", f"--scores={tmp_path}/o", f"--calibration={tuned}"]) == 0
    recommended = json.loads(tuned.read_text())["recommendation"]["detector"]
    assert json.loads((tmp_path / "o/flags.json").read_text())["detector"] == recommended
    assert f"detector: {recommended}, recommended by" in capsys.readouterr().out


def test_too_few_images_for_two_halves_are_one_line(model, archive, tmp_path, capsys):
    samples.write_shard(tmp_path / "one.tfrecord", samples.examples(samples.random_images(1)))
    argv = ["tune", f"--model={model}", f"--in_distribution={tmp_path}/one.tfrecord", f"--output={tmp_path}/cal.json"]
    assert main([*argv, "--temperatures=1", "--epsilons=0", f"--out_distribution={archive}/out-*"]) != 0
    assert "1 in-distribution images are too few" in capsys.readouterr().err
    assert not (tmp_path / "cal.json").exists()


def test_the_mean_score_needs_one_side_and_comes_with_its_warning(model, archive, tmp_path, capsys):
    output = tmp_path / "cal.json"
    code = tune(model, archive, output, "--objective=mean_score", "--temperatures=1000", "--epsilons=0,0.01")
    assert code == 0
    assert "can be far from the best one" in capsys.readouterr().out


def test_classes_of_enough_images_have_scores_of_their_own(model, archive, tmp_path):
    output = tmp_path / "cal.json"
    assert tune(model, archive, output, "--temperatures=1", "--epsilons=0", "--per_class") == 0
    classes = read_calibration(str(output)).class_scores["odin"]
    assert all(scores.count >= 100 for scores in classes.values())


def test_score_takes_its_settings_from_the_calibration(model, archive, tuned, tmp_path, capsys):
    argv = ["score", f"--model={model}", f"--input={archive}/out-*", f"--calibration={tuned}", f"--output={tmp_path}/o"]
    assert main(argv) == 0
    assert "untuned" not in capsys.readouterr().out
    odin = json.loads(Path(tmp_path, "o", "run.json").read_text())["settings"]["odin"]
    assert odin == json.loads(tuned.read_text())["settings"]["odin"]
    for flag in ("--temperature=7", "--epsilon=0.5", "--preprocessing=byte", "--model_config=m.json"):
        assert main([*argv, flag]) == 2
        assert "calibration" in capsys.readouterr().err.splitlines()[-1]


def test_another_models_calibration_is_refused(archive, tuned, tmp_path, capsys):
    other = samples.save_model(samples.small_model(seed=5), tmp_path / "other.keras")
    argv = ["score", f"--model={other}", f"--input={archive}/out-*", f"--calibration={tuned}", f"--output={tmp_path}/o"]
    assert main(argv) == 2
    assert "was made for a different model" in capsys.readouterr().err


@pytest.mark.parametrize("job", ["evaluate", "report"])
def test_the_folder_of_a_grid_is_no_folder_of_scores(tuned, capsys, job):
    assert main([job, f"--scores={tuned.with_name('cal-tuning')}"]) == 2
    assert "holds the grid of a `tune` run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperatures="], "--temperatures is an empty list"),
        (["--epsilons=0,-1"], "--epsilons: -1 must be at least 0"),
        (["--temperatures=nan"], "--temperatures: nan must be above 0"),
        (["--temperatures=0"], "--temperatures: 0 must be above 0"),
        (["--epsilons=x"], "--epsilons"),
        (["--objective=fpr_at_95_tpr"], "needs --out_distribution"),
        (["--objective=mean_score"], "cannot compare temperatures"),
        (["--grid=paper", "--epsilons=0"], "give --grid or --epsilons, not both"),
        (["--out_distribution=noise:uniform", "--surrogate=halves"], "give --out_distribution or --surrogate"),
        (["--surrogate=noise"], "--surrogate noise: choose from patches, averages"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_writes_nothing(model, archive, tmp_path, capsys, flags, message):
    assert tune(model, archive, tmp_path / "cal.json", *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_calibration_is_not_replaced(model, archive, tmp_path, capsys):
    (tmp_path / "cal.json").write_text('{"my": "own"}')
    assert tune(model, archive, tmp_path / "cal.json") == 2
    assert "exists and is not a calibration" in capsys.readouterr().err
    assert (tmp_path / "cal.json").read_text() == '{"my": "own"}'


@pytest.mark.parametrize("damage", [lambda t: t[:-40], lambda t: "[]", lambda t: t.replace('"steps"', '"stops"')])
def test_damaged_calibrations_are_one_error(tuned, tmp_path, damage):
    (tmp_path / "cal.json").write_text(damage(tuned.read_text()))
    with pytest.raises(CalibrationError, match=r"cal\.json"):
        read_calibration(str(tmp_path / "cal.json"))
