"""`odin-beam report`: one page that shows what a run found, whatever the run was and whatever its ids say."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from odin_beam.pipeline.main import main
from odin_beam.pipeline.show import report_gallery
from odin_beam.pipeline.show.page import metrics_rows
from odin_beam.pipeline.show.scaled_image import scaled_image
from tests.helpers import samples
from tests.helpers.score_runs import restore

HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(output):
    return Page((Path(output) / "report/report.html").read_text())


def shard(path, images, label=True):
    payloads = [
        samples.example(image=samples.encoded(image), id=f"{HOSTILE}{i}", label=i % 4 if label else None)
        for i, image in enumerate(images)
    ]
    return samples.write_shard(path, [*payloads, b"bad"])


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A folder whose `out` holds scores, and copies of it, of which the second has a report too."""
    tmp_path, kept = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("kept")
    shard(tmp_path / "in-0.tfrecord", samples.random_images(30, seed=1))
    shard(tmp_path / "in-1.tfrecord.gz", samples.random_images(10, seed=2))
    shard(tmp_path / "out.tfrecord", samples.random_images(20, seed=3) // 2, label=False)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/a.png").write_bytes(samples.encoded(samples.random_images(1)[0]))
    command = [
        *("score", f"--model={model}", f"--output={tmp_path}/out", "--max_rejected=1", "--check=false"),
        *(f"--in_distribution=known={tmp_path}/in-*", f"--out_distribution=foreign={tmp_path}/out.tfrecord"),
        *("--out_distribution=noise:uniform", "--noise_count=15", f"--input=loose=files:{tmp_path}/loose/*"),
    ]
    assert main(command) == 0
    shutil.copytree(tmp_path, kept / "scored")
    assert main(["report", f"--scores={tmp_path}/out"]) == 0
    shutil.copytree(tmp_path, kept / "reported")
    return tmp_path, kept / "scored", kept / "reported"


@pytest.fixture
def scored(made):
    return restore(made[0], made[1]) / "out"


@pytest.fixture
def reported(made):
    return restore(made[0], made[2]) / "out"


def test_the_page_shows_metrics_curves_galleries_with_maps_and_rejects(scored, capsys):
    assert main(["report", f"--scores={scored}"]) == 0
    assert capsys.readouterr().out.strip() == f"{scored}/report/report.html"
    shown = page(scored)
    assert "known (40) against foreign (20)" in shown.text
    assert "known (40) against uniform (15)" in shown.text
    assert "not_an_example" in shown.text
    assert "Untuned" in shown.text
    pictures = [image["src"] for image in shown.of("img") if image["src"].startswith("data:image/jpeg")]
    # The one image of the archive first, by class, and at the end; six at either end of three other sources; each with
    # its map.
    assert len(pictures) == 2 * (3 + 3 * 12)
    assert len(set(pictures)) > 70
    figures = ("roc-known+foreign", "roc-log-known+uniform", "histogram-odin_logit", "classes-known", "map-scale")
    for name in figures:
        assert ElementTree.parse(scored / f"report/{name}.svg").getroot().tag.endswith("svg")


def test_the_page_needs_nothing_from_elsewhere_and_runs_its_own_script_alone(reported):
    shown = page(reported)
    assert shown.of("script") == [{}]
    assert HOSTILE in shown.text
    script = re.search("<script>(.*)</script>", (reported / "report/report.html").read_text(), re.DOTALL)[1]
    (policy,) = (tag["content"] for tag in shown.of("meta") if "http-equiv" in tag)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = "img-src data:; style-src 'unsafe-inline'; script-src "
    assert policy == f"default-src 'none'; {allowed}'sha256-{digest}'"
    assert all(image["src"].startswith("data:image/") for image in shown.of("img"))
    links = [link["href"] for link in shown.of("a")]
    assert {link for link in links if not link.startswith("#")} == {f"file://{reported.parent}/loose/a.png"}
    there = {attributes["id"] for _, attributes in shown.tags if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= there
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    assert (reported / "report/report.html").stat().st_size < 5_000_000


def test_the_images_shown_are_those_of_the_rows(model, tmp_path):
    """One plain colour per image, so that the picture tells which one it is."""
    colours = np.repeat(np.repeat(np.arange(0, 240, 12, dtype=np.uint8)[:, None, None, None], 8, 1), 8, 2)
    images = np.repeat(colours, 3, 3)
    samples.write_shard(tmp_path / "x.tfrecord", samples.examples(images))
    samples.write_shard(tmp_path / "y.tfrecord.gz", samples.examples(images))
    for i, image in enumerate(images):
        (tmp_path / f"{i:02d}.png").write_bytes(samples.encoded(image))
    sources = [f"--input=a={tmp_path}/x.tfrecord", f"--input=b={tmp_path}/y*", f"--input=c=files:{tmp_path}/*.png"]
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", *sources]) == 0
    drawn = []
    original = report_gallery._picture

    def picture(row, *rest):
        made = original(row, *rest)
        drawn.append((row["source"], row["index"], made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_gallery, "_picture", picture)
        assert main(["report", f"--scores={tmp_path}/out"]) == 0
    # Every image is read once, however often it is shown.
    assert len(drawn) == len({(source, index) for source, index, _ in drawn}) > 3 * 12
    for _, index, made in drawn:
        expected = report_gallery.data_uri(Image.new("RGB", (224, 224), (12 * index,) * 3))
        assert made.image == expected
    paths = {field["value"] for field in page(tmp_path / "out").of("input")}
    assert {f"{tmp_path}/{index:02d}.png" for source, index, _ in drawn if source == "c"} <= paths


def test_the_page_shows_every_comparison_that_still_holds(scored):
    for new in ("foreign", "uniform"):
        assert main(["compare", f"--scores={scored}", "--reference=known", f"--new={new}"]) == 0
    other = scored / "compare-known+uniform.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"scores_state": "of other scores"}))
    assert main(["report", f"--scores={scored}"]) == 0
    shown = page(scored).text
    found = json.loads((scored / "compare-known+foreign.json").read_text())
    assert "Comparison: foreign with known" in shown
    assert f"{found['verdict']}" in shown
    row = found["detectors"][0]["auroc"]
    assert f"{row['low']:.3f} to {row['high']:.3f}" in shown
    assert "compare-known+uniform.json is out of date: run `odin-beam compare` again" in shown
    assert "Comparison: uniform" not in shown


def test_an_archive_without_roles_gets_a_page_too(model, tmp_path):
    shard(tmp_path / "x.tfrecord", samples.random_images(5))
    command = ["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/x*", "--max_rejected=1"]
    assert main([*command, "--detectors=msp"]) == 0
    assert main(["report", f"--scores={tmp_path}/out"]) == 0
    shown = page(tmp_path / "out")
    assert "5 images of input were scored; how many of them look foreign is not known yet." in shown.text
    assert f"odin-beam flag --scores {tmp_path}/out --calibration calibration.json" in shown.text
    assert "The images with the lowest msp scores" in shown.text
    assert "against" not in shown.text


def test_an_archive_with_flags_begins_with_how_many_and_names_classes(model, tmp_path):
    """Classes are named, markup in a name is text, and flags that are out of date are no answer."""
    shard(tmp_path / "x.tfrecord", samples.random_images(60), label=False)
    (tmp_path / "labels.txt").write_text("".join(f"<b>{name}</b>\n" for name in ("cat", "dog", "cow", "hen")))
    out = tmp_path / "out"
    source = [f"--input=photos={tmp_path}/x*", "--max_rejected=1", f"--class_names={tmp_path}/labels.txt"]
    assert main(["score", f"--model={model}", f"--output={out}", *source, "--detectors=odin,msp"]) == 0
    samples.write_calibration(tmp_path / "cal.json", model, np.linspace(0.6, 1.4, 200))
    calibration = json.loads((tmp_path / "cal.json").read_text())
    digest = json.loads((out / "run.json").read_text())["settings"]["model_digest"]
    calibration["settings"]["model_digest"] = digest
    (tmp_path / "cal.json").write_text(json.dumps(calibration))
    flag = ["flag", f"--scores={out}", f"--calibration={tmp_path}/cal.json", "--detector=msp", "--tpr=0.5"]
    assert main(flag) == 0
    assert main(["report", f"--scores={out}"]) == 0
    shown, flags = page(out), json.loads((out / "flags.json").read_text())
    own = flags["sources"]["photos"]
    answered = f"{own['flagged']} of 60 images in photos look"
    assert answered in shown.text
    assert f"{own['false_flags_low']} to {own['false_flags_high']} expected if none were" in shown.text
    data = json.loads((out / "report/data.json").read_text())
    assert sum(row["flagged"] for row in data["classes"]) == own["flagged"] > 0
    seen = {row["class"] for row in data["classes"]}
    for index, name in enumerate(("cat", "dog", "cow", "hen")):
        assert (f"Seen as <b>{name}</b>" in shown.text) == (index in seen)
    assert 0 < len(shown.of("details")) <= 150
    assert {field["value"] for field in shown.of("input")} <= {f"{tmp_path}/x.tfrecord#{i}" for i in range(60)}
    assert "{" not in shown.text[shown.text.index("digest of the model") : shown.text.index("To look at more images")]
    (out / "flags.json").write_text(json.dumps(flags | {"scores_state": "of other scores"}))
    assert main(["report", f"--scores={out}"]) == 0
    shown = page(out).text
    assert answered not in shown
    assert "60 images of photos were scored; how many of them look foreign is not known yet." in shown
    assert "flags are out of date: run `odin-beam flag` again" in shown


def test_a_model_or_image_that_went_away_is_said_the_rest_shown(scored, model, tmp_path):
    (scored.parent / "in-0.tfrecord").unlink()
    assert main(["report", f"--scores={scored}"]) == 0
    shown = page(scored)
    assert "in-0.tfrecord: the file was removed after it was listed" in shown.text
    run = (scored / "run.json").read_text()
    (scored / "run.json").write_text(run.replace(model, f"{tmp_path}/gone.keras"))
    assert main(["report", f"--scores={scored}"]) == 0
    shown = page(scored)
    assert "gone.keras: No such file or directory, so no activation map is shown" in shown.text
    assert [image for image in shown.of("img") if image["src"].startswith("data:image/jpeg")]
    assert not [image for image in shown.of("img") if image.get("class") == "map"]
    assert "is noise, which no file contains" in shown.text
    assert "known (40) against foreign (20)" in shown.text


def test_a_runs_folder_cannot_have_code_run(scored):
    run = json.loads((scored / "run.json").read_text())
    run["settings"]["model_factory"] = "os:remove"
    (scored / "run.json").write_text(json.dumps(run))
    # The scores were made with other settings than these.
    assert main(["report", f"--scores={scored}"]) == 3
    assert "was made by --model_factory os:remove: give the same flag here to see activation maps" in page(scored).text
    assert main(["report", f"--scores={scored}", "--model_factory=os:getpid"]) == 3
    assert "was made by --model_factory os:remove" in page(scored).text


def test_what_is_no_run_is_a_usage_error(tmp_path, capsys):
    assert main(["report", f"--scores={tmp_path}"]) == 2
    assert "has no run.json" in capsys.readouterr().err


def test_the_best_of_each_column_is_marked_and_differences_are_to_msp():
    def row(detector, fpr, auroc):
        figures = {"fpr_at_95_tpr": fpr, "detection_error": fpr, "auroc": auroc, "aupr_in": auroc, "aupr_out": auroc}
        return {
            "in_distribution": "a",
            "out_distribution": "b",
            "detector": detector,
            "in_count": 1,
            "out_count": 2,
        } | figures

    (table,) = metrics_rows({"pairs": [row("odin", 0.1, 0.9), row("msp", 0.3, 0.8), row("gen", 0.2, 0.9)]})
    assert (table["title"], table["pair"]) == ("a (1) against b (2)", "a+b")
    best = {cells["detector"]: [cell["best"] for cell in cells["figures"]] for cells in table["rows"]}
    assert best == {"odin": [True] * 5, "msp": [False] * 5, "gen": [False, False, True, True, True]}
    odin, msp, _ = ([cell["difference"] for cell in cells["figures"]] for cells in table["rows"])
    assert odin == pytest.approx([-20, -20, 10, 10, 10])
    assert msp == [None] * 5


@pytest.mark.parametrize("heat", [-np.ones((3, 3)), np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_a_map_that_is_nowhere_positive_is_drawn_as_nothing(heat):
    over = np.asarray(report_gallery.laid_over(np.full((8, 8, 3), 0.5, np.float32), heat))
    assert np.ptp(over.reshape(-1, 3), axis=0).max() == 0


def test_a_map_is_drawn_brightest_where_it_is_largest():
    heat = np.zeros((4, 4))
    heat[0, 3] = 5
    over = np.asarray(report_gallery.laid_over(np.zeros((8, 8, 1), np.float32), heat).convert("L"))
    assert over[:56, 168:].mean() > 4 * over[168:, :56].mean() + 20


@pytest.mark.parametrize("shape", [(224, 224), (1000, 3), (1, 1)])
def test_no_picture_takes_more_than_its_bytes(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    uri = report_gallery.data_uri(scaled_image(noise, report_gallery._SIDE))
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) <= 23 + 4 * -(-report_gallery._MAX_BYTES // 3)


def test_it_opens_in_a_browser(reported, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    address = f"file://{reported}/report/report.html"
    picture = tmp_path / "page.png"
    argv = [*command, "--window-size=1150,3000", f"--screenshot={picture}", address]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)
    with Image.open(picture) as seen:
        assert seen.size == (1150, 3000)
        assert len(set(seen.convert("L").resize((115, 300)).get_flattened_data())) > 50
    dom = subprocess.run(
        [*command, "--dump-dom", address], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert len(re.findall("<details>", dom)) == 3 + 3 * 12
    # The script ran: its buttons are there.
    assert len(re.findall('<button class="copy" data-of="[^"]+">Copy', dom)) > 3 + 3 * 12
