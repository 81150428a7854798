"""Which run a folder belongs to, however many are launched on it at once."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from odin_beam.transforms import errors
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.tables import run_file

SETTINGS = ScoreSettings("/m.keras", "digest", odin=OdinSettings(1000.0, 0.0))
OTHERS = dataclasses.replace(SETTINGS, odin=OdinSettings(10.0, 0.0))


def claimed_at_once(folder, *runs):
    """What became of the claims of several runs that all start together: None, or the error."""
    barrier = threading.Barrier(len(runs))

    def claim(settings):
        barrier.wait()
        try:
            run_file.claim(folder, settings)
        except run_file.OtherSettings as e:
            return e
        return None

    with ThreadPoolExecutor(len(runs)) as threads:
        return list(threads.map(claim, runs))


def test_of_two_runs_with_different_settings_one_gets_the_folder(tmp_path):
    for i in range(50):
        folder = f"{tmp_path}/{i}"
        problems = claimed_at_once(folder, SETTINGS, OTHERS)
        assert problems.count(None) == 1
        winner = (SETTINGS, OTHERS)[problems.index(None)]
        assert run_file.read_identity(folder) == winner.identity()
        assert "odin.temperature was" in str(next(filter(None, problems)))
        assert [path.name for path in (tmp_path / str(i)).iterdir()] == ["run.json"]


def test_runs_with_equal_settings_share_the_folder(tmp_path):
    for i in range(50):
        assert claimed_at_once(f"{tmp_path}/{i}", *[SETTINGS] * 4) == [None] * 4


def test_the_owner_of_a_folder_is_known_by_its_settings(tmp_path):
    folder = str(tmp_path)
    with pytest.raises(errors.OutputTakenError):
        run_file.check_owner(folder, SETTINGS.identity())
    run_file.claim(folder, SETTINGS)
    run_file.check_owner(folder, SETTINGS.identity())
    with pytest.raises(errors.OutputTakenError, match="another run, with other settings, has since started in"):
        run_file.check_owner(folder, OTHERS.identity())


@pytest.mark.parametrize("content", ["{}", '{"settings": []}', '{"settings": 3}'])
def test_a_folder_whose_settings_are_unknown_is_not_claimed(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(errors.StorageError, match=r"run\.json is damaged"):
        run_file.claim(str(tmp_path), SETTINGS)


def test_a_link_to_nowhere_is_not_claimed(tmp_path):
    (tmp_path / "run.json").symlink_to(tmp_path / "absent")
    with pytest.raises(errors.StorageError, match=r"run\.json is missing"):
        run_file.claim(str(tmp_path), SETTINGS)
