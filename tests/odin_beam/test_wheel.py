"""What is installed: one package, typed, which lives beside a user's own `pipeline` and `transforms`."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers.samples import ROOT

SOURCES = ("odin_beam", "pipeline", "transforms", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run_pip(job: str, *arguments) -> None:
    subprocess.run([sys.executable, "-m", "pip", job, "--quiet", "--no-deps", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy without leftovers of earlier builds."""
    export, dist = tmp_path_factory.mktemp("export"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, export / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, export / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        dist,
    ]
    subprocess.run([*command, export], check=True)
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site-packages")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        folder,
        wheel,
    ]
    subprocess.run(command, check=True)
    return folder


def test_nothing_but_the_package_lands_in_site_packages(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"odin_beam", "bin"} | {
        path.name for path in installed.glob("*.dist-info") if not path.name.startswith("odin_beam")
    }


def test_everything_that_the_jobs_need_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "pipeline/show/report.html.jinja", "pipeline/demo_data/classifier.keras"):
        assert f"odin_beam/{needed}" in names
    assert not [name for name in names if name.startswith("odin_beam/pipeline/pipeline")]


def test_a_users_own_modules_of_the_old_names_do_no_harm(installed, tmp_path):
    (tmp_path / "transforms.py").write_text("from keras.saving import load_model as load\n")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").write_text("raise RuntimeError('the wrong pipeline was imported')\n")
    data = installed / "odin_beam/pipeline/demo_data"
    command = [
        sys.executable,
        "-m",
        "odin_beam",
        "score",
        f"--model={data}/classifier.keras",
        f"--output={tmp_path}/out",
    ]
    command += [f"--input={data}/mnist-00000-*", "--model_factory=transforms:load", "--detectors=msp"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed)])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "250 images scored" in done.stdout


def test_a_type_checker_knows_the_public_names(installed, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import odin_beam\n"
        "reveal_type(odin_beam.ScoreSettings.for_model('m.keras').odin)\n"
        "reveal_type(odin_beam.load_classifier('m.keras').classes)\n"
        "reveal_type(odin_beam.detection_metrics(odin_beam.ScoreHistogram(), odin_beam.ScoreHistogram()).auroc)\n"
        "reveal_type(odin_beam.DETECTORS)\n"
        "reveal_type(odin_beam.Shards)\n"
        "reveal_type(odin_beam.read_calibration('c.json').epsilon)\n"
        "odin_beam.Geometry(resize=3)\n"
    )
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\nignore_missing_imports = True\n"
        + "".join(
            f"[mypy-{name}.*]\nfollow_imports = skip\n"
            for name in ("tensorflow", "keras", "apache_beam", "google", "scipy", "tensorflow_datasets", "matplotlib")
        )
    )
    environment = {**os.environ, "MYPYPATH": str(installed)}
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "program.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    revealed = [line.partition("Revealed type is ")[2] for line in done.stdout.splitlines() if "Revealed" in line]
    assert len(revealed) == 6, done.stdout
    assert not [line for line in revealed if "Any" in line.partition("->")[0]], revealed
    assert "OdinSettings" in revealed[0]
    assert '"resize" to "Geometry" has incompatible type "int"' in done.stdout
