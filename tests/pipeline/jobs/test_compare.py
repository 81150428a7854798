"""`odin-beam compare`: what it says of two batches, from scores files alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from odin_beam.pipeline.main import main
from odin_beam.transforms.comparison.class_mix import class_mix
from odin_beam.transforms.comparison.two_samples import auroc_effect
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram, common_bins
from tests.helpers.samples import ROOT
from tests.helpers.score_runs import last_line, read
from tests.helpers.written_runs import write_run


def shards(seed, count, images, shift=0.0, classes=4):
    """Normal scores, in float32 as most detectors' columns, of images of evenly mixed classes."""
    rng = np.random.default_rng(seed)
    return [
        [(int(rng.integers(classes)), float(np.float32(rng.normal(shift)))) for _ in range(images)]
        for _ in range(count)
    ]


def scores(parts):
    return np.array([score for part in parts for _, score in part if score is not None])


def bins_of(x, y):
    return common_bins(ScoreHistogram.of(x), ScoreHistogram.of(y))


def compare(output, *flags):
    return main(["compare", f"--scores={output}", *flags])


PAIR = ("--reference=old", "--new=new")
FILE = "compare-old+new.json"


def test_figures_are_those_of_the_rows(tmp_path, capsys):
    old, new = shards(0, 24, 50), shards(1, 3, 70, -2.0, classes=2)
    output = write_run(tmp_path, {"old": old, "new": new, "other": shards(2, 1, 5)})
    assert compare(output, *PAIR) == 0
    found = read(output, FILE)
    assert (found["verdict"], found["complete"], found["chosen"]) == ("moved", True, "gen")
    assert found["reference"] == {"scores": str(output), "source": "old", "shards": 24, "images": 1200}
    assert found["new"] == {"scores": str(output), "source": "new", "shards": 3, "images": 210}

    x, y = scores(old), scores(new)
    assert [row["detector"] for row in found["detectors"]] == ["msp", "gen"]
    for row in found["detectors"]:
        assert (row["verdict"], row["exact"], row["reference_images"], row["new_images"]) == ("moved", True, 1200, 210)
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score([1] * 1200 + [0] * 210, [*x, *y]), abs=1e-12)
        assert row["ks"]["value"] == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)
        # Four intervals, AUROC's and D's of either detector, share 5 %.
        half = np.sqrt(np.log(4 / 0.0125) / 2 / 1200) + np.sqrt(np.log(4 / 0.0125) / 2 / 210)
        assert row["ks"]["low"] == pytest.approx(row["ks"]["value"] - half, abs=1e-12)
        assert row["auroc"]["low"] == pytest.approx(auroc_effect(bins_of(x, y), 0.0125).low, abs=1e-12)

    against, mixes = [], []
    everything = np.array([predicted for part in old for predicted, _ in part])
    for i, part in enumerate(old):
        rest = scores([*old[:i], *old[i + 1 :]])
        auroc = roc_auc_score([1] * len(rest) + [0] * 50, [*rest, *scores([part])])
        against.append((abs(auroc - 0.5), stats.ks_2samp(rest, scores([part])).statistic))
        own = np.bincount([predicted for predicted, _ in part], minlength=4)
        mixes.append(class_mix(dict(enumerate(np.bincount(everything) - own)), dict(enumerate(own))).excess)
    # The 24th of 24: ceil(0.95 * 25).
    auroc, ks = np.max(against, axis=0)
    assert found["detectors"][0]["auroc"]["shards"] == pytest.approx(auroc, abs=1e-12)
    assert found["detectors"][0]["ks"]["shards"] == pytest.approx(ks, abs=1e-12)
    assert found["shards_against_rest"] == {"count": 24, "enough": True}
    assert found["classes"]["total_variation"]["shards"] == pytest.approx(max(mixes), abs=1e-9)
    assert found["classes"]["verdict"] == "moved"
    assert {row["class"] for row in found["classes"]["changed_most"]} == {0, 1, 2, 3}

    threshold = np.sort(x)[1200 - 1140]
    assert found["unlike"]["threshold"] == threshold
    assert found["unlike"]["flagged"] == (y < threshold).sum()
    assert 0 < found["unlike"]["unlike_at_least"] < found["unlike"]["flagged"]
    lowest = [row["score"] for row in found["lowest"]]
    assert lowest == sorted(y)[: len(lowest)]
    assert found["lowest"][0]["p_value"] == pytest.approx((1 + (x <= y.min()).sum()) / 1201)

    printed = capsys.readouterr().out
    assert printed.startswith("moved: new differs from old by 2 of 2 detectors and by the mix of predicted classes\n")
    assert f"next: odin-beam top --scores {output} --source new\n" in printed


def test_batches_alike_have_no_relevant_move(tmp_path, capsys):
    output = write_run(tmp_path, {"old": shards(0, 20, 250), "new": shards(1, 4, 1250)})
    assert compare(output, *PAIR) == 0
    assert capsys.readouterr().out.startswith(
        "no relevant move: new is like old by 2 of 2 detectors and by the mix of predicted classes\n"
    )


def test_few_images_cannot_tell_and_it_says_how_many_would(tmp_path, capsys):
    output = write_run(tmp_path, {"old": shards(0, 1, 60), "new": shards(1, 1, 60)})
    assert compare(output, *PAIR) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cannot say whether new differs from old, by 2 of 2 detectors and by the mix")
    assert "images of each would tell" in printed.splitlines()[0]
    assert "the reference has one shard only" in printed
    found = read(output, FILE)
    assert found["detectors"][0]["auroc"]["shards"] is None
    assert found["shards_against_rest"] == {"count": 0, "enough": False}


def test_shards_that_differ_as_much_are_no_evidence(tmp_path, capsys):
    rng = np.random.default_rng(5)
    old = [shards(i, 1, 100, shift)[0] for i, shift in enumerate(rng.normal(0, 1, 30))]
    output = write_run(tmp_path, {"old": old, "new": shards(99, 3, 400, -0.8)})
    assert compare(output, *PAIR) == 0
    row = read(output, FILE)["detectors"][0]
    assert (row["verdict"], row["reason"]) == ("cannot say", "shards")
    assert row["auroc"]["low"] > 0.55
    assert "the reference's own shards differ as much from each other" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([[]], [[(0, 1.0)]], "cannot say: old has no scored images"),
        ([[], []], [], "cannot say: old has no scored images and new has no scored images"),
        ([[(0, 1.0)]], [[(0, 1.0)]], "cannot say whether new differs from old"),
        ([[(0, 1.0)] * 9, []], [[(0, 1.0)] * 9], "cannot say whether new differs from old"),
        # Without a score from any detector, the classes are left.
        ([[(0, None)] * 9], [[(1, None)] * 4], "cannot say whether new differs from old, by the mix"),
        ([[(0, None), (0, 2.0)]], [[(0, None), (0, 1.0)]], "cannot say whether new differs from old"),
    ],
)
def test_hardly_any_images_end_in_a_sentence(tmp_path, capsys, old, new, said):
    output = write_run(tmp_path, {"old": old, "new": new or [[]]})
    assert compare(output, *PAIR) == 0
    assert capsys.readouterr().out.startswith(said)
    assert read(output, FILE)["verdict"] == "cannot say"


def test_equal_scores_are_no_relevant_move(tmp_path):
    output = write_run(tmp_path, {"old": [[(0, 0.5)] * 3000] * 2, "new": [[(0, 0.5)] * 6000]})
    assert compare(output, *PAIR) == 0
    found = read(output, FILE)
    assert (found["verdict"], found["detectors"][0]["auroc"]["value"]) == ("no relevant move", 0.5)
    assert (found["unlike"]["flagged"], found["unlike"]["unlike_at_least"]) == (0, 0)


def test_two_runs_of_one_source_each_need_no_names(tmp_path):
    first = write_run(tmp_path / "a", {"photos": shards(0, 2, 30)}, ("msp", "gen", "energy"))
    second = write_run(tmp_path / "b", {"photos": shards(1, 2, 30)}, ("gen", "energy", "odin"))
    assert main(["compare", f"--scores={first}", f"--scores={second}"]) == 0
    (path,) = first.glob("compare-photos+photos-*.json")
    found = json.loads(path.read_text())
    assert [row["detector"] for row in found["detectors"]] == ["energy", "gen"]
    assert (found["reference"]["scores"], found["new"]["scores"]) == (str(first), str(second))
    assert not list(second.glob("compare-*"))
    assert main(["compare", f"--scores={first},{second}"]) == 0
    assert list(first.glob("compare-*.json")) == [path]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"odin": OdinSettings(10.0, 0.0014)}, "odin.temperature was 1000.0, is 10.0"),
        ({"odin": OdinSettings(1000.0, 0.0)}, "odin.epsilon was 0.0014, is 0.0"),
        ({"precision": "mixed"}, 'precision was "float32", is "mixed"'),
        ({"output_name": "logits"}, 'output_name was null, is "logits"'),
        ({"reference_digest": "f"}, 'reference_digest was null, is "f"'),
    ],
)
def test_runs_of_other_settings_are_refused(tmp_path, capsys, settings, message):
    first = write_run(tmp_path / "a", {"photos": shards(0, 1, 3)})
    second = write_run(tmp_path / "b", {"photos": shards(1, 1, 3)}, **settings)
    assert main(["compare", f"--scores={first}", f"--scores={second}"]) == 2
    assert message in last_line(capsys)
    assert not list(tmp_path.glob("*/*/compare-*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name two of its sources, by --reference and --new"),
        (["--reference=old"], "name two of its sources, by --reference and --new"),
        (["--reference=old", "--new=old"], "--reference old --new old: give two different sources"),
        (["--reference=old", "--new=none"], "--new none: not a source of"),
        (["--scores=b,c"], "--scores: give one folder, or two, not 3"),
        (["--scores=/nowhere"], "/nowhere is not an output folder of `score`"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
    output = write_run(tmp_path, {"old": shards(0, 1, 3), "new": shards(1, 1, 3)})
    assert compare(output, *flags) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(output.glob("compare-*"))


def test_a_folder_with_several_sources_needs_a_name(tmp_path, capsys):
    first = write_run(tmp_path / "a", {"photos": shards(0, 1, 3)})
    second = write_run(tmp_path / "b", {"photos": shards(0, 1, 3), "scans": shards(1, 1, 3)}, ("msp",))
    assert main(["compare", f"--scores={first}", f"--scores={second}"]) == 2
    assert "has the sources photos, scans: name one by --new" in last_line(capsys)
    assert main(["compare", f"--scores={first}", f"--scores={second}", "--new=scans"]) == 0
    third = write_run(tmp_path / "c", {"photos": shards(0, 1, 3)}, ("energy",))
    assert main(["compare", f"--scores={first}", f"--scores={third}"]) == 2
    assert "no detector in common" in last_line(capsys)


def test_missing_and_damaged_shards_are_named(tmp_path, capsys):
    output = write_run(tmp_path, {"old": shards(0, 3, 30), "new": shards(1, 2, 30)})
    next(output.glob("scores/source=old/old-1*")).unlink()
    next(output.glob("scores/source=new/new-0*")).write_bytes(b"PAR1")
    assert compare(output, *PAIR) == 3
    found = read(output, FILE)
    assert (found["complete"], found["reference"]["shards"], found["new"]["images"]) == (False, 2, 30)
    assert [shard["source"] for shard in found["failed_shards"]] == ["new", "old"]
    printed = capsys.readouterr().out
    assert "2 shards missing from the comparison; run `score` and then `compare` again:" in printed
    assert f"{tmp_path}/old-1.tfrecord: not scored" in printed


def test_the_detector_of_the_flags_is_chosen(tmp_path):
    output = write_run(tmp_path, {"old": shards(0, 1, 30), "new": shards(1, 1, 30)})
    (output / "flags.json").write_text('{"detector": "msp"}')
    assert compare(output, *PAIR) == 0
    assert read(output, FILE)["chosen"] == "msp"


def test_it_imports_no_tensorflow(tmp_path):
    output = write_run(tmp_path, {"old": shards(0, 1, 30), "new": shards(1, 1, 30)})
    script = f"""
import sys
from odin_beam.pipeline.main import main
code = main(["compare", "--scores={output}", "--reference=old", "--new=new"])
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
