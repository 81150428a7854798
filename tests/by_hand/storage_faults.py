r"""What a run loses to storage that fails: the real command, real faults. Linux, as root.

    python -m tests.by_hand.storage_faults --tries 3

Each try scores ten shards of the embedded example while a fault is there, takes the fault away, runs the same command
again, and compares every row with those of a run that met none. Prints one line per fault.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from odin_beam.transforms.storage import writing

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "pipeline" / "demo_data"
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Trial:
    """A folder with input and output, and how the command is run.

    Attributes:
      folder: holds `in-*.tfrecord`; the output is `out/run` below it.
      denied: whether permissions hold for the command, which otherwise runs as root with all powers.
    """

    folder: Path
    denied: bool

    @property
    def output(self) -> Path:
        return self.folder / "out" / "run"

    def start(self) -> subprocess.Popen:
        powers = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if self.denied else []
        command = [*powers, sys.executable, "-m", "odin_beam", "score", f"--model={DATA / 'classifier.keras'}"]
        command += [f"--input=photos={self.folder}/in-*.tfrecord", f"--output={self.output}", "--batch_size=16"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> tuple[int, str]:
        """Exit code, and the last line that it printed."""
        process = self.start()
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, output.strip().splitlines()[-1]

    def finished(self) -> set[str]:
        """Names of the shards that have scores."""
        return {path.name.rpartition("-")[0] for path in self.output.glob("scores/*/*.parquet")}

    def rows(self) -> list[tuple]:
        """Every row that there is, without the folder's own name."""
        found = []
        for path in sorted(self.output.glob("scores/source=photos/*.parquet")):
            table = pq.ParquetFile(path).read()
            found += [
                (row["shard"].rpartition("/")[2], row["index"], row["odin"], row["msp"]) for row in table.to_pylist()
            ]
        return sorted(found)


def unreadable(trial: Trial) -> tuple[int, str]:
    """One shard that may not be read."""
    victim = sorted(trial.folder.glob("in-*"))[3]
    victim.chmod(0)
    code = trial.run()
    victim.chmod(0o644)
    return code


def output_denied(trial: Trial) -> tuple[int, str]:
    """An output folder that may not be written to."""
    trial.output.parent.chmod(0o555)
    code = trial.run()
    trial.output.parent.chmod(0o755)
    return code


def disk_full(trial: Trial) -> tuple[int, str]:
    """An output on a file system that is full after some shards."""
    out = trial.output.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", out], check=True)
    code = trial.run()
    subprocess.run(["mount", "-o", "remount,size=16m", out], check=True)
    return code


def vanished(trial: Trial) -> tuple[int, str]:
    """A shard that goes away after it was listed and before it is read."""
    process = trial.start()
    wait_for(lambda: trial.finished() or process.poll() is not None)
    # Nothing is read while it is stopped.
    process.send_signal(signal.SIGSTOP)
    victim = next(path for path in sorted(trial.folder.glob("in-*")) if path.name not in trial.finished())
    aside = victim.with_name("aside")
    victim.rename(aside)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    aside.rename(victim)
    return process.returncode, output.strip().splitlines()[-1]


FAULTS: dict[str, tuple[Callable[[Trial], tuple[int, str]], bool]] = {
    "disk full while writing": (disk_full, False),
    "input not readable": (unreadable, True),
    "output not writable": (output_denied, True),
    "input vanishes after listing": (vanished, False),
}


def wait_for(condition: Callable[[], bool]) -> None:
    """Polls until it holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the run did not get as far as it should")
        time.sleep(0.005)


@contextmanager
def prepared(archive: Path, denied: bool) -> Iterator[Trial]:
    """A trial over copies of the shards."""
    folder = Path(tempfile.mkdtemp(prefix="odin-beam-faults-"))
    (folder / "out").mkdir()
    for shard in archive.glob("in-*"):
        shutil.copy2(shard, folder)
    try:
        yield Trial(folder, denied)
    finally:
        subprocess.run(["umount", folder / "out"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)


def main() -> int:
    """Tries every fault and prints what it cost; 1 where a row was lost or repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3)
    tries = parser.parse_args().tries
    with tempfile.TemporaryDirectory() as folder:
        images = str(DATA / "*mnist-*.tfrecord")
        ingest = [
            sys.executable,
            "-m",
            "pipeline",
            "ingest",
            f"--images={images}",
            f"--output={folder}/in",
            "--shards=10",
        ]
        subprocess.run(ingest, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with prepared(Path(folder), False) as trial:
            trial.run()
            expected = trial.rows()
        print(f"{len(expected):,} rows expected\n")
        print(f"{'fault':32}{'tries':>6}{'exit codes':>14}{'then':>6}{'lost':>6}{'repeated':>10}{'left over':>11}")
        bad = 0
        for name, (fault, denied) in FAULTS.items():
            codes, after, lost, repeated, left, said = [], [], 0, 0, 0, ""
            for _ in range(tries):
                with prepared(Path(folder), denied) as trial:
                    code, said = fault(trial)
                    codes.append(code)
                    after.append(trial.run()[0])
                    rows = trial.rows()
                    lost += len(set(expected) - set(rows))
                    repeated += len(rows) - len(set(rows))
                    left += sum(writing.TEMPORARY in path.name for path in trial.output.rglob("*"))
            shown = [",".join(map(str, sorted(set(found)))) for found in (codes, after)]
            print(f"{name:32}{tries:>6}{shown[0]:>14}{shown[1]:>6}{lost:>6}{repeated:>10}{left:>11}")
            print(f"    {said}", flush=True)
            bad += lost + repeated + left + sum(after)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
