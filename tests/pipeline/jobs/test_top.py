"""`odin-beam top` and `review`: from flags to images, labels, and what they say."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from odin_beam.pipeline.main import main
from odin_beam.pipeline.show import labelled_sheet
from tests.helpers import samples
from tests.helpers.score_runs import last_line

IMAGES = samples.random_images(300, seed=4)
# Every third image is foreign.
FOREIGN = np.arange(300) % 3 == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Scores and flags of shards and of loose files; the calibration is of images like two thirds of them."""
    folder = tmp_path_factory.mktemp("top")
    model = samples.save_model(samples.small_model(), folder / "small.keras")
    samples.write_shard(folder / "val.tfrecord", samples.examples(samples.random_images(400, seed=9), [0] * 400))
    images = np.where(FOREIGN[:, None, None, None], IMAGES // 8, IMAGES).astype(np.uint8)
    for part in (0, 1):
        chosen = images[part * 100 : part * 100 + 100]
        samples.write_shard(folder / f"in-{part}.tfrecord", samples.examples(chosen, [0] * 100))
    (folder / "files").mkdir()
    for index, image in enumerate(images[200:]):
        (folder / f"files/{index:03}.png").write_bytes(samples.encoded(image))
    (folder / "names.txt").write_text("cat\ndog\nowl\nfox\n")
    fed = [f"--model={model}", "--check=false", f"--class_names={folder}/names.txt"]
    validation = [f"--in_distribution={folder}/val.tfrecord", "--temperatures=1", "--epsilons=0"]
    tuned = [f"--output={folder}/cal.json", "--objective=mean_score"]
    assert main(["tune", *fed[:2], *validation, *tuned]) == 0
    sources = [f"--input=photos={folder}/in-*", f"--input=loose=files:{folder}/files/*.png"]
    known = f"--in_distribution=known={folder}/val.tfrecord"
    calibrated = f"--calibration={folder}/cal.json"
    assert main(["score", *fed, *sources, known, calibrated, f"--output={folder}/scores"]) == 0
    assert main(["flag", f"--scores={folder}/scores", calibrated, "--detector=gen"]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "scores", tmp_path / "scores")
    shutil.copy(made / "cal.json", tmp_path)
    return tmp_path


def top(folder, *more):
    return main(["top", f"--scores={folder}/scores", *more])


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def rows(folder, name="flags"):
    return ds.dataset(folder / f"scores/{name}", partitioning="hive").to_table().to_pylist()


def test_the_lowest_scores_of_the_archive_come_first(folder, capsys):
    assert top(folder, "--count=20", f"--csv={folder}/t.csv") == 0
    printed = capsys.readouterr().out
    assert "the 20 images least like what the classifier knows, by gen" in printed
    lowest = sorted((row for row in rows(folder) if row["source"] != "known"), key=lambda row: row["score"])[:20]
    found = table(folder / "t.csv")
    assert [float(row["score"]) for row in found] == pytest.approx([row["score"] for row in lowest])
    assert [(row["id"], row["uri"], row["class_name"]) for row in found] == [
        (row["id"], row["uri"], row["class_name"]) for row in lowest
    ]
    assert {row["class_name"] for row in found} <= {"cat", "dog", "owl", "fox"}
    assert [row["is_ood"] for row in found] == [str(row["is_ood"]) for row in lowest]
    assert printed.splitlines()[-1].startswith("next, to look at them: odin-beam top --scores ")


def test_other_ends_sources_classes_and_detectors(folder, capsys):
    assert top(folder, "--count=3", "--high", "--source=known", f"--csv={folder}/h.csv") == 0
    known = sorted((row for row in rows(folder) if row["source"] == "known"), key=lambda row: -row["score"])
    assert [float(row["score"]) for row in table(folder / "h.csv")] == pytest.approx([r["score"] for r in known[:3]])
    assert top(folder, "--class=owl", f"--csv={folder}/c.csv") == 0
    assert {row["prediction"] for row in table(folder / "c.csv")} == {"2"}
    assert top(folder, "--class=2", "--detector=energy", f"--csv={folder}/e.csv") == 0
    by_energy = table(folder / "e.csv")
    assert {row["p_value"] for row in by_energy} == {""}
    assert [float(row["score"]) for row in by_energy] == sorted(float(row["score"]) for row in by_energy)
    assert "by energy" in capsys.readouterr().out


def test_copies_are_the_images_themselves_in_their_order(folder, capsys):
    assert top(folder, "--count=150", f"--copy={folder}/copy", f"--csv={folder}/t.csv") == 0
    found, names = table(folder / "t.csv"), sorted(path.name for path in (folder / "copy").iterdir())
    assert [row["copy"] for row in found] == names
    assert len(names) == 150
    for row in found[::10]:
        image = (
            IMAGES[int(row["id"].rpartition("/")[2].removesuffix(".png")) + 200] if "loose" in row["source"] else None
        )
        copied = np.asarray(Image.open(folder / "copy" / row["copy"]))
        if image is not None:
            assert (copied == image).all() or (copied == image // 8).all()
        assert copied.shape == (8, 8, 3)
    assert "copies: " in capsys.readouterr().out
    assert top(folder, f"--copy={folder}/copy") == 2
    assert "is not empty: choose another folder" in last_line(capsys)


def test_a_sheet_is_a_picture_of_all(folder, capsys):
    assert top(folder, "--count=12", f"--sheet={folder}/s.png") == 0
    sheet = Image.open(folder / "s.png")
    assert sheet.width > sheet.height > 300
    # Four columns of images whose pixels are one colour each: not an empty sheet.
    assert len(set(sheet.resize((64, 64), 0).get_flattened_data())) > 50
    assert f"sheet: {folder}/s.png" in capsys.readouterr().out


def test_an_image_that_is_gone_is_named_and_the_others_are_copied(made, tmp_path, capsys):
    shutil.copytree(made / "files", tmp_path / "files")
    scores = ["score", f"--model={made}/small.keras", "--check=false", "--detectors=msp"]
    assert main([*scores, f"--input=files:{tmp_path}/files/*.png", f"--output={tmp_path}/scores"]) == 0
    (tmp_path / "files/005.png").unlink()
    capsys.readouterr()
    assert top(tmp_path, "--count=100", f"--copy={tmp_path}/copy", f"--sheet={tmp_path}/s.png") == 0
    printed = capsys.readouterr().out
    assert len(list((tmp_path / "copy").iterdir())) == 99
    assert "1 image could not be read back" in printed
    assert "005.png" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--random=10", "--count=3"], "--random draws N images by chance: give it without --count and --high"),
        (["--random=10", "--class=1"], "--random draws from all classes"),
        (["--random=10", "--detector=msp"], "these are by gen: leave out --detector"),
        (["--source=nowhere"], "no such source, only"),
        (["--class=bird"], "there is no such class; the classes are cat, dog, owl, fox"),
        (["--class=4"], "there is no such class"),
        (["--detector=knn"], "has no scores of it, only"),
        (["--sheet=s.jpg"], "must end in .png"),
        (["--name=other"], "has no flags of the name other"),
        (["--name=../x"], "at most 40 letters"),
        (["--count=0"], "at least 1"),
        (["--count=1000000"], "more than a person looks at"),
    ],
)
def test_usage_errors_are_one_line(folder, capsys, flags, words):
    assert top(folder, *flags) == 2
    assert words in last_line(capsys)
    assert not (folder / "scores/top.json").exists()


def test_without_flags_scores_rank_and_a_sample_is_refused(folder, capsys):
    (folder / "scores/flags.json").unlink()
    assert top(folder, "--count=5") == 0
    printed = capsys.readouterr().out
    assert "p-value" not in printed
    assert "with a calibration of `tune`: odin-beam flag --scores" in printed
    assert top(folder, "--random=5") == 2
    assert "run `odin-beam flag` first" in last_line(capsys)


def test_flags_of_other_rows_are_a_failed_shard(folder, capsys):
    files = sorted((folder / "scores/flags/source=photos").iterdir())
    other = next((folder / "scores/flags/source=known").iterdir())
    shutil.copy(other, files[0])
    files[1].unlink()
    assert top(folder, "--count=300") == 3
    printed = capsys.readouterr().out
    assert "2 scores files damaged" in printed
    assert "the 100 images" in printed


def label(path, as_foreign, output):
    """Fills in the column as a person would."""
    found = table(path)
    for row in found:
        row["foreign"] = "yes" if as_foreign(row) else "no"
    with output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def is_foreign(row):
    if row["source"] == "loose":
        return bool(FOREIGN[200 + int(row["id"].rpartition("/")[2].removesuffix(".png"))])
    return bool(FOREIGN[int(row["shard"][-len("0.tfrecord")]) * 100 + int(row["index"])])


def test_a_labelled_sample_judges_the_flags(folder, capsys):
    assert top(folder, "--random=60", f"--csv={folder}/s.csv", f"--copy={folder}/copy") == 0
    printed = capsys.readouterr().out
    assert "p-value" not in printed
    assert "next, with yes or no in its column foreign: odin-beam review --scores" in printed
    sample = table(folder / "s.csv")
    assert {"score", "p_value", "is_ood"}.isdisjoint(sample[0])
    assert all((folder / "copy" / row["copy"]).exists() for row in sample)
    assert {row["source"] for row in sample} <= {"photos", "loose"}
    label(folder / "s.csv", is_foreign, folder / "labelled.csv")
    judged = [row for row in rows(folder) if row["source"] != "known"]
    flagged = sum(row["is_ood"] for row in judged)
    keys = {(row["shard"], int(row["index"])) for row in sample}
    hits = [row for row in judged if row["is_ood"] and (row["shard"], row["index"]) in keys]
    assert main(["review", f"--scores={folder}/scores", f"--labels={folder}/labelled.csv"]) == 0
    printed = capsys.readouterr().out
    right = sum(is_foreign({**row, "index": row["index"]}) for row in hits)
    assert f"labelled {len(hits)} of {flagged:,} flagged images, {right} of them foreign" in printed
    assert f"precision {100 * right / len(hits):>7.1f} %" in printed
    assert "of all 300 images" in printed


def test_labels_that_moved_the_threshold_do_not_judge_it(folder, capsys):
    assert top(folder, "--random=80", f"--csv={folder}/s.csv") == 0
    label(folder / "s.csv", is_foreign, folder / "labelled.csv")
    review = ["review", f"--scores={folder}/scores", f"--labels={folder}/labelled.csv"]
    assert main([*review, f"--recalibrate={folder}/cal2.json"]) == 0
    printed = capsys.readouterr().out
    assert "these labels moved the threshold" in printed
    assert printed.splitlines()[-1] == f"next: odin-beam flag --scores {folder}/scores --calibration {folder}/cal2.json"
    made = json.loads((folder / "cal2.json").read_text())
    assert made["recommendation"]["detector"] == "gen"
    assert list(made["scores"]) == ["gen"]
    flag = ["flag", f"--scores={folder}/scores", f"--calibration={folder}/cal2.json", "--name=own", "--tpr=0.9"]
    assert main(flag) == 0
    capsys.readouterr()
    assert main([*review, "--name=own"]) == 2
    assert "the images were drawn from other flags or sources than these" in last_line(capsys)
    assert top(folder, "--name=own", "--random=80", f"--csv={folder}/s2.csv") == 0
    # Another order of chance: not the same images again.
    first, second = ({(r["shard"], r["index"]) for r in table(folder / name)} for name in ("s.csv", "s2.csv"))
    assert len(first & second) < 60
    label(folder / "s2.csv", is_foreign, folder / "labelled2.csv")
    capsys.readouterr()
    again = ["review", f"--scores={folder}/scores", f"--labels={folder}/labelled2.csv", "--name=own"]
    assert main(again) == 0
    assert f"{len(first & second)} labelled images moved the threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("\nyes", "\n").replace("\nno", "\n"), "no image is labelled"),
        (lambda text: text.replace("/in-0.tfrecord", "/in-9.tfrecord"), "labelled images are not among the flags"),
        (lambda text: text.replace("\nyes", "\nperhaps", 1), "foreign is 'perhaps', neither yes nor no"),
        (lambda text: text.replace("index", "place2"), "it has no column index"),
        (lambda text: text.replace("draw", "drew"), "it has no column draw"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(folder, capsys, change, words):
    assert top(folder, "--random=60", f"--csv={folder}/s.csv") == 0
    label(folder / "s.csv", is_foreign, folder / "labelled.csv")
    (folder / "bad.csv").write_text(change((folder / "labelled.csv").read_text()))
    assert main(["review", f"--scores={folder}/scores", f"--labels={folder}/bad.csv"]) == 2
    assert words in last_line(capsys)


def test_labels_of_other_flags_or_sources_are_no_sample(folder, capsys):
    calibrated = f"--calibration={folder}/cal.json"
    assert main(["flag", f"--scores={folder}/scores", calibrated, "--name=strict", "--tpr=0.8", "--detector=gen"]) == 0
    assert top(folder, "--random=40", "--source=loose", f"--csv={folder}/s.csv") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].endswith(f"--scores {folder}/scores --source loose --labels {folder}/s.csv")
    label(folder / "s.csv", is_foreign, folder / "labelled.csv")
    review = ["review", f"--scores={folder}/scores", f"--labels={folder}/labelled.csv"]
    assert main([*review, "--source=loose"]) == 0
    assert "of all 100 images" in capsys.readouterr().out
    for other in ([], ["--source=photos"], ["--source=loose", "--name=strict"]):
        assert main([*review, *other]) == 2
        assert "drawn from other flags or sources than these" in last_line(capsys)
    # The worst images are no random ones.
    assert top(folder, "--count=20", f"--csv={folder}/worst.csv") == 0
    assert main([*review[:2], f"--labels={folder}/worst.csv"]) == 2
    assert "it has no column foreign, so it is not a table of a random sample" in last_line(capsys)


def test_a_larger_sample_is_labelled_where_it_is_new(folder, capsys):
    assert top(folder, "--random=20", f"--csv={folder}/a.csv") == 0
    label(folder / "a.csv", is_foreign, folder / "first.csv")
    assert top(folder, "--random=40", f"--csv={folder}/b.csv") == 0
    known = {(row["shard"], row["index"]) for row in table(folder / "a.csv")}
    label(folder / "b.csv", is_foreign, folder / "all.csv")
    new = [row for row in table(folder / "all.csv") if (row["shard"], row["index"]) not in known]
    with (folder / "second.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(new[0]))
        writer.writeheader()
        writer.writerows(new)
    capsys.readouterr()
    review = ["review", f"--scores={folder}/scores"]
    assert main([*review, f"--labels={folder}/all.csv"]) == 0
    together = capsys.readouterr().out
    assert main([*review, f"--labels={folder}/first.csv,{folder}/second.csv"]) == 0
    assert capsys.readouterr().out == together


def test_recalibration_takes_both_strata_and_writes_over_nothing_else(folder, capsys):
    assert top(folder, "--random=40", f"--csv={folder}/s.csv") == 0
    label(folder / "s.csv", is_foreign, folder / "labelled.csv")
    review = ["review", f"--scores={folder}/scores", f"--labels={folder}/labelled.csv"]
    for path in ("labelled.csv", "cal.json"):
        before = (folder / path).read_bytes()
        assert main([*review, f"--recalibrate={folder}/{path}"]) == 2
        assert "exists and is not one that only `review` made" in last_line(capsys)
        assert (folder / path).read_bytes() == before
    assert main([*review, f"--recalibrate={folder}"]) == 2
    assert "is a folder: give the name of a file" in last_line(capsys)
    assert main([*review, f"--recalibrate={folder}/own.json"]) == 0
    assert main([*review, f"--recalibrate={folder}/own.json"]) == 0
    assert list(json.loads((folder / "own.json").read_text())["sources"]) == ["photos", "loose"]
    flagged = {(row["shard"], str(row["index"])) for row in rows(folder) if row["is_ood"]}
    found = table(folder / "labelled.csv")
    for row in found:
        if (row["shard"], row["index"]) in flagged:
            row["foreign"] = ""
    with (folder / "half.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    half = ["review", f"--scores={folder}/scores", f"--labels={folder}/half.csv", f"--recalibrate={folder}/h.json"]
    assert main(half) == 2
    assert "label flagged and unflagged images" in last_line(capsys)
    assert not (folder / "h.json").exists()


def test_a_sheet_to_be_labelled_does_not_sway(folder, monkeypatch):
    shown = []
    monkeypatch.setattr(labelled_sheet, "_cut", lambda text, font, width: shown.append(text) or "")
    assert top(folder, "--random=6", f"--sheet={folder}/s.png") == 0
    assert len(shown) == 12
    assert not any("p 0" in text or "seen as" in text for text in shown)
    assert top(folder, "--count=6", f"--sheet={folder}/s.png") == 0
    assert sum("seen as" in text for text in shown) == 6


def test_files_of_a_person_stay(folder, capsys):
    (folder / "mine.csv").write_text("shard,index,my_notes\n/a,1,keep\n")
    Image.new("RGB", (4, 4)).save(folder / "mine.png")
    (folder / "a[1]").mkdir()
    (folder / "plain").write_text("x")
    for flag, words in (
        (f"--csv={folder}/mine.csv", "is not a table of `top`"),
        (f"--sheet={folder}/mine.png", "is not a sheet of `top`"),
        (f"--copy={folder}/a[1]", "must not hold"),
        (f"--copy={folder}/plain", "is a file: give a folder"),
        (f"--csv={folder}", "is a folder: give the name of a file"),
    ):
        assert top(folder, flag) == 2
        assert words in last_line(capsys)
    assert (folder / "mine.csv").read_text().endswith("keep\n")


def test_labels_are_not_overwritten(folder, capsys):
    assert top(folder, "--random=20", f"--csv={folder}/s.csv") == 0
    assert top(folder, "--random=20", f"--csv={folder}/s.csv") == 0
    label(folder / "s.csv", is_foreign, folder / "s2.csv")
    before = (folder / "s2.csv").read_bytes()
    assert top(folder, "--random=20", f"--csv={folder}/s2.csv") == 2
    assert "has labels in its column foreign: choose another name" in last_line(capsys)
    assert (folder / "s2.csv").read_bytes() == before
    (folder / "mine.csv").write_text("my,own\n")
    assert top(folder, f"--csv={folder}/mine.csv") == 2
    assert "is not a table of `top`" in last_line(capsys)


def test_review_without_flags_says_what_to_run(folder, capsys):
    (folder / "scores/flags.json").unlink()
    (folder / "l.csv").write_text("foreign,shard,index,draw\n")
    assert main(["review", f"--scores={folder}/scores", f"--labels={folder}/l.csv"]) == 2
    assert "run `odin-beam flag` first" in last_line(capsys)
