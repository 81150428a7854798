"""Scores 2,000 real images on a Flink cluster of this machine, kills half of it midway, and compares the rows.

    make test-flink

One job manager, two task managers of two slots, and for each of these a pool of Python workers, all on the loopback
interface. In the first act a lost task manager ends the job; it is replaced and the same command run again. In the
second Flink may restart the job, and what is left of the cluster finishes it. Either way the rows must be those of an
uninterrupted run on FnApiRunner. Takes about five minutes and wants Linux, Java 17 and Maven; logs are in .flink/logs.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

ROOT = Path(__file__).resolve().parents[2]
FLINK = ROOT / ".flink"
LOGS = FLINK / "logs"
DEMO = ROOT / "pipeline" / "demo_data"
MEMBERS = (1, 2)
SHARDS_EACH = 10
SHARDS = 2 * SHARDS_EACH
IMAGES = 2000
# So few that work is left for a recovery, so many that the workers of both task managers are at it.
SHARDS_BEFORE_KILL = 5
KEY = ["source", "shard", "index"]
REST, RPC, POOL = 8081, 6123, 50000
POOL_HOST = "worker-pool"

# Start scripts would derive these from the machine's size; here they are as small as the job allows.
CONFIG = f"""
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {RPC}
jobmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {REST}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 2
taskmanager.load-balance.mode: SLOTS
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.network.min: 192m
taskmanager.memory.network.max: 192m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 128m
taskmanager.memory.jvm-overhead.max: 128m
heartbeat.interval: 2000
heartbeat.timeout: 10000
"""
# One lost task manager uses up several: for its tasks, then for the intermediate results that went with it.
RESTARTS = """
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 2 s
"""
LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = CONSOLE
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""
# Of the configuration that Flink ships; its serializers look into the JDK.
OPENED = "lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic util.concurrent.locks"
JAVA = (
    *("java", "-Xmx512m", "-XX:+UseSerialGC", "--add-exports=java.base/sun.net.util=ALL-UNNAMED"),
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in OPENED.split()),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
)


class Failed(Exception):
    """What was to be shown is not so."""


def check(holds: bool, message: str) -> None:
    """Raises `Failed` unless it holds."""
    if not holds:
        raise Failed(message)


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Returns once the condition holds.

    Raises:
      Failed: it did not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"no {what} within {seconds:.0f} s; see {LOGS.relative_to(ROOT)}")
        time.sleep(0.1)


def kill(process: subprocess.Popen) -> None:
    """Ends a process and all that it has started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Cluster:
    """A standalone Flink session cluster; leaving the context kills what is left of it.

    Args:
      folder: empty; for its configuration and temporary files.
      config: of Flink.
    """

    def __init__(self, folder: Path, config: str):
        self._folder = folder
        (folder / "tmp").mkdir(parents=True)
        (folder / "config.yaml").write_text(config)
        (folder / "log4j.properties").write_text(LOGGING)
        self._manager: subprocess.Popen | None = None
        self._members: dict[int, list[subprocess.Popen]] = {}

    def __enter__(self) -> "Cluster":
        self._manager = self._java("job-manager", "runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        for number in MEMBERS:
            self.start_member(number)
        self.wait_for_members()
        return self

    def __exit__(self, *_) -> None:
        for number in list(self._members):
            self.kill_member(number)
        if self._manager:
            kill(self._manager)

    def start_member(self, number: int) -> None:
        """A task manager, and its pool at the address that the pools' name has for this task manager alone."""
        host = f"127.0.0.{number}"
        hosts = self._folder / f"hosts-{number}"
        hosts.write_text(f"{host} {POOL_HOST}\n127.0.0.1 localhost {socket.gethostname()}\n")
        pool = [sys.executable, ROOT / "tests" / "by_hand" / "flink" / "worker_pool.py", f"{host}:{POOL}"]
        self._members[number] = [
            self._start(f"worker-pool-{number}", pool),
            self._java(
                f"task-manager-{number}", "runtime.taskexecutor.TaskManagerRunner", f"-Djdk.net.hosts.file={hosts}"
            ),
        ]

    def kill_member(self, number: int) -> None:
        """Task manager, pool and Python workers go without a word, as with a machine that is lost."""
        for process in self._members.pop(number):
            kill(process)

    def wait_for_members(self) -> None:
        wait_for("complete cluster", lambda: self._ask("/overview").get("taskmanagers") == len(self._members), 60)

    def failures(self) -> int:
        """How often tasks of the cluster's last job have failed."""
        job = max(self._ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
        return len(self._ask(f"/jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"])

    def _ask(self, path: str) -> dict:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{REST}{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def _java(self, name: str, main: str, *properties: str) -> subprocess.Popen:
        jars = os.pathsep.join(map(str, sorted((FLINK / "lib").glob("*.jar"))))
        own = (f"-Dlog4j.configurationFile={self._folder / 'log4j.properties'}", f"-Djava.io.tmpdir={self._folder}/tmp")
        command = [*JAVA, *own, *properties, "-cp", jars, f"org.apache.flink.{main}", "--configDir", self._folder]
        return self._start(name, command)

    def _start(self, name: str, command: list) -> subprocess.Popen:
        with (LOGS / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self._folder / "tmp"),
            )


def environment(temporary: Path) -> dict[str, str]:
    """For all that is started: a pool starts `python`, whatever that is, and the worker must find the package."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


@dataclass(frozen=True)
class Scoring:
    """A folder with shards, where `score` runs as a user would start it.

    Attributes:
      folder: empty at first.
      job_server: jar of Beam's job server, absolute.
    """

    folder: Path
    job_server: Path

    def make_shards(self) -> None:
        for name in ("fashion_mnist", "mnist"):
            arguments = ["--images", str(DEMO / f"{name}-*.tfrecord"), "--output", f"shards/{name}"]
            self._finish(self._launch("ingest", [*arguments, "--shards", str(SHARDS_EACH)], "ingest"), 0)

    def start(self, output: str, flink: bool = True) -> subprocess.Popen:
        # One image at a time, so that there is a midway of some length.
        arguments = ["--model", str(DEMO / "classifier.keras"), "--output", output, "--batch_size", "1"]
        arguments += ["--in_distribution", "fashion_mnist=shards/fashion_mnist-*.tfrecord"]
        arguments += ["--out_distribution", "mnist=shards/mnist-*.tfrecord"]
        if flink:
            arguments += ["--runner=FlinkRunner", f"--flink_master=127.0.0.1:{REST}", "--parallelism=2"]
            arguments += [f"--flink_job_server_jar={self.job_server}", "--job_server_jvm_properties=-Xmx512m"]
            arguments += ["--environment_type=EXTERNAL", f"--environment_config={POOL_HOST}:{POOL}"]
        return self._launch("score", arguments, f"score-{output}")

    def finish(self, launcher: subprocess.Popen, code: int) -> None:
        self._finish(launcher, code)

    def committed(self, output: str) -> dict[str, int]:
        """Scores files and when they were written."""
        files = (self.folder / output / "scores").glob("**/*.parquet")
        return {path.name: path.stat().st_mtime_ns for path in files}

    def rows(self, output: str) -> pa.Table:
        """All scores, by the key."""
        table = ds.dataset(self.folder / output / "scores", partitioning="hive").to_table()
        return table.sort_by([(column, "ascending") for column in KEY])

    def read_json(self, output: str, name: str) -> dict:
        return json.loads((self.folder / output / name).read_text())

    def _launch(self, job: str, arguments: list[str], name: str) -> subprocess.Popen:
        with (LOGS / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "odin_beam", job, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self.folder),
            )

    def _finish(self, launcher: subprocess.Popen, code: int) -> None:
        try:
            found = launcher.wait(timeout=300)
        except subprocess.TimeoutExpired as e:
            raise Failed("a job did not end within 300 s") from e
        finally:
            kill(launcher)
        check(found == code, f"exit code {found}, not {code}; see {LOGS.relative_to(ROOT)}")


@contextlib.contextmanager
def started(scoring: Scoring, output: str) -> Iterator[subprocess.Popen]:
    """A run on Flink, up to the point where some of its shards are committed."""
    launcher = scoring.start(output)

    def midway() -> bool:
        return len(scoring.committed(output)) >= SHARDS_BEFORE_KILL or launcher.poll() is not None

    try:
        wait_for("first shards", midway, 180)
        yield launcher
    finally:
        kill(launcher)


def compare(scoring: Scoring, output: str, expected: str) -> None:
    """Sees that a run left just what another did: every image once, equal scores and metrics, nothing temporary.

    Raises:
      Failed: it did not.
    """
    rows, want = scoring.rows(output), scoring.rows(expected)
    keys = rows.select(KEY)
    unique = keys.group_by(KEY).aggregate([]).num_rows
    check(len(rows) == unique == IMAGES, f"{output}: {len(rows)} rows of {unique} images, not {IMAGES}")
    check(keys.equals(want.select(KEY)), f"{output}: the keys are others than those of {expected}")
    for column in want.schema:
        found, wanted = rows[column.name], want[column.name]
        if pa.types.is_floating(column.type):
            equal = np.allclose(found.to_numpy(), wanted.to_numpy(), rtol=1e-5, atol=0, equal_nan=True)
        else:
            equal = found.equals(wanted)
        check(equal, f"{output}: {column.name} differs from that of {expected}")
    same = scoring.read_json(output, "metrics.json") == scoring.read_json(expected, "metrics.json")
    check(same, f"{output}: metrics.json differs from that of {expected}")
    check(scoring.read_json(output, "summary.json")["complete"], f"{output}: summary.json is not complete")
    left = {path.name for path in (scoring.folder / output).iterdir()}
    check(
        left == {"run.json", "manifest.parquet", "scores", "metrics.json", "summary.json"},
        f"{output}: holds {', '.join(sorted(left))}",
    )


def check_kept(scoring: Scoring, output: str, before: dict[str, int]) -> None:
    """Sees that the files committed before are still the same ones.

    Raises:
      Failed: some were written again.
    """
    after = scoring.committed(output)
    again = [name for name, written in before.items() if after.get(name) != written]
    check(not again, f"{output}: {len(again)} committed shards were scored again")


def stopped_and_rerun(scoring: Scoring, folder: Path, say: Callable[[str], None]) -> None:
    """First act: Flink restarts nothing."""
    with Cluster(folder, CONFIG) as cluster:
        say("stop: cluster of two task managers, no restarts")
        with started(scoring, "rerun") as launcher:
            cluster.kill_member(2)
            at_kill = len(scoring.committed("rerun"))
            say(f"stop: killed task manager 2 and its workers, {at_kill} of {SHARDS} shards committed")
            scoring.finish(launcher, code=1)
        before = scoring.committed("rerun")
        check(len(before) < SHARDS, "the job was over before anything was killed")
        say(f"stop: the job failed, exit code 1, {len(before)} of {SHARDS} shards committed")
        # Until Flink has given up the lost one, it would be counted as the new one.
        cluster.wait_for_members()
        cluster.start_member(2)
        cluster.wait_for_members()
        scoring.finish(scoring.start("rerun"), code=0)
    check_kept(scoring, "rerun", before)
    say(f"stop: run again with a new task manager 2, exit code 0, {SHARDS - len(before)} shards scored")


def recovered(scoring: Scoring, folder: Path, say: Callable[[str], None]) -> None:
    """Second act: Flink restarts what has failed."""
    with Cluster(folder, CONFIG + RESTARTS) as cluster:
        say("recover: cluster of two task managers, fixed-delay restarts")
        with started(scoring, "recovered") as launcher:
            cluster.kill_member(2)
            before = scoring.committed("recovered")
            check(len(before) < SHARDS, "the job was over before anything was killed")
            say(f"recover: killed task manager 2 and its workers, {len(before)} of {SHARDS} shards committed")
            scoring.finish(launcher, code=0)
        failures = cluster.failures()
        check(failures > 0, "the job did not notice that a task manager was gone")
    check_kept(scoring, "recovered", before)
    say(f"recover: the job went on by itself on task manager 1 after {failures} failures, exit code 0")


def free_ports() -> None:
    """Sees that nobody else serves where the cluster will.

    Raises:
      Failed: somebody does.
    """
    for host, port in [("127.0.0.1", REST), ("127.0.0.1", RPC), *((f"127.0.0.{i}", POOL) for i in MEMBERS)]:
        with socket.socket() as probe:
            check(probe.connect_ex((host, port)) != 0, f"{host}:{port} is taken")


def run(folder: Path, job_server: Path) -> None:
    """Both acts, and the run that they are compared with."""
    scoring, began = Scoring(folder, job_server), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    scoring.make_shards()
    scoring.finish(scoring.start("expected", flink=False), code=0)
    say(f"expected: {len(scoring.rows('expected')):,} rows of an uninterrupted run on FnApiRunner")
    for act, output in ((stopped_and_rerun, "rerun"), (recovered, "recovered")):
        act(scoring, folder / f"flink-{output}", say)
        compare(scoring, output, "expected")
        say(f"{output}: the same {IMAGES:,} rows and metrics, nothing left over")


def main(job_server: Path) -> int:
    """Gives the exit code.

    Args:
      job_server: jar of Beam's job server.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    LOGS.mkdir(parents=True, exist_ok=True)
    for log in LOGS.glob("*.log"):
        log.unlink()
    try:
        check(job_server.exists() and any((FLINK / "lib").glob("*.jar")), "`make test-flink` fetches what this needs")
        free_ports()
        with tempfile.TemporaryDirectory(prefix="odin-beam-flink-", ignore_cleanup_errors=True) as folder:
            run(Path(folder), job_server.resolve())
    except Failed as e:
        print(f"failed: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
