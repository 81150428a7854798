"""Nothing of ours is importable under two names, TensorFlow stays quiet, and no module's models outlive it."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("at_any_speed", deadline=None)
hypothesis.settings.load_profile("at_any_speed")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: more threads would only wait for each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "helpers" / "without_sklearn"), os.environ.get("PYTHONPATH")])
)
# They are `odin_beam.pipeline` and `odin_beam.transforms`; a second copy of a class would not equal the first.
sys.modules["pipeline"] = sys.modules["transforms"] = None


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """Keras forgets a module's models behind it, and the allocator hands their memory back to the system."""
    yield
    if keras := sys.modules.get("keras"):
        keras.backend.clear_session()
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
