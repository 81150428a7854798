"""Shows the progress of a long job: a bar on a terminal, otherwise a line every few seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

_BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}"
_LINE = "{desc}: {percentage:3.0f}%, {elapsed} elapsed, {remaining} left{postfix}"
_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 15.0


@contextlib.contextmanager
def show_progress(label: str, total: int, unit: str, state: Callable[[], tuple[int, str]]) -> Iterator[None]:
    """Shows progress on standard error while the body runs.

    Args:
      label: what is being done.
      total: the amount of work, in `unit`s.
      unit: of `total`; `B` is scaled to kB, MB and so on.
      state: the work done so far, and a remark; called in a separate thread, errors only end the display.
    """
    terminal = sys.stderr.isatty()
    interval = _TERMINAL_SECONDS if terminal else _LOG_SECONDS
    layout = {"unit": unit, "unit_scale": unit == "B", "bar_format": _BAR if terminal else _LINE}
    bar = tqdm(desc=label, total=max(total, 1), file=sys.stderr, leave=False, disable=not terminal, **layout)
    started = time.monotonic()
    stop = threading.Event()

    def show(done: int, remark: str) -> None:
        if terminal:
            bar.n = done
            bar.set_postfix_str(remark)
        else:
            elapsed = time.monotonic() - started
            line = tqdm.format_meter(done, max(total, 1), elapsed, prefix=label, postfix=remark, **layout)
            print(line, file=sys.stderr, flush=True)

    def refresh() -> None:
        # A failing display must not stop the job.
        with contextlib.suppress(Exception):
            while not stop.wait(interval):
                done, remark = state()
                show(min(done, total), remark)

    thread = threading.Thread(target=refresh, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()
