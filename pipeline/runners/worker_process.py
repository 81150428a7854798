"""`python -m odin_beam.pipeline.runners.worker_process`: a worker of the local runner; `local_workers` starts it.

It is Beam's own, with two differences. It never outlives its launcher; Beam's may then wait for two minutes, holding
its memory. It leaves Ctrl-C to the launcher; Beam's prints a trace.
"""

import os
import signal
import sys
import threading


def main() -> None:
    # A terminal sends Ctrl-C to all; the launcher then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_launcher, name="launcher", daemon=True).start()

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with_launcher() -> None:
    # The launcher holds the other end of this pipe and never writes to it: it can be read once the launcher is gone,
    # whatever ended it.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
