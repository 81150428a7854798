"""The service of docs/service.md, as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import odin_beam
from odin_beam.pipeline.main import main
from tests.helpers import samples

ROOT = Path(__file__).resolve().parents[2]
IMAGES = samples.random_images(12, seed=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and a calibration, and the service's app."""
    folder = tmp_path_factory.mktemp("service")
    model = samples.save_model(samples.small_model(), folder / "classifier.keras")
    samples.write_shard(folder / "val.tfrecord", samples.examples(samples.random_images(300, seed=1), [0] * 300))
    tune = [f"--model={model}", "--check=false", f"--in_distribution={folder}/val.tfrecord"]
    grid = ["--temperatures=1000", "--epsilons=0", "--objective=mean_score"]
    assert main(["tune", *tune, *grid, f"--output={folder}/calibration.json"]) == 0
    return folder


@pytest.fixture(scope="module")
def client(made):
    page = (ROOT / "docs/service.md").read_text()
    code = re.search(r"(?m)^    # service\.py\n(?:^(?:    .*)?\n)+?(?=^\S)", page)[0]
    assert len(code.splitlines()) <= 36
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL", str(made / "classifier.keras"))
        patch.setenv("CALIBRATION", str(made / "calibration.json"))
        scope = {"__name__": "service"}
        exec(compile("\n".join(line[4:] for line in code.splitlines()), "service.py", "exec"), scope)
    return TestClient(scope["app"])


def ask(client, data):
    return client.post("/score", files={"image": ("photo.png", data)})


def test_an_image_gets_its_row(made, client):
    scorer = odin_beam.OdinScorer(made / "classifier.keras", calibration=made / "calibration.json")
    for image in IMAGES:
        answer = ask(client, samples.encoded(image))
        assert answer.status_code == 200
        assert answer.json() == scorer.score_one(image)
    verdicts = {
        ask(client, samples.encoded(np.uint8(image // f))).json()["is_ood"] for f in (1, 50) for image in IMAGES
    }
    assert verdicts == {True, False}


@pytest.mark.parametrize("data", [b"", b"no image", samples.encoded(IMAGES[0])[:60]])
def test_what_is_no_image_is_an_error_with_a_reason(client, data):
    answer = ask(client, data)
    assert answer.status_code == 422
    assert answer.json()["detail"]["reason"] in ("undecodable", "truncated")


def test_it_says_which_model_it_holds(made, client):
    answer = client.get("/healthz").json()
    assert answer["input_shape"] == [8, 8, 3]
    assert answer["model_digest"] == odin_beam.ScoreSettings.for_model(str(made / "classifier.keras")).model_digest
