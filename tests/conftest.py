"""Nothing of ours is importable under two names, and TensorFlow stays quiet."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# They are `odin_beam.pipeline` and `odin_beam.transforms`; a second copy of a class would not equal the first.
sys.modules["pipeline"] = sys.modules["transforms"] = None
