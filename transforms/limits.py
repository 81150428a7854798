"""Limits on input from outside. Refer to them as `limits.NAME`, so that a test can lower a limit in one place."""

# Pillow's own limit for a decompression bomb (268 MB as RGB); read from the header before decoding.
MAX_PIXELS = 89_478_485
# Far above any encoded image of `MAX_PIXELS`, far below a worker's memory.
MAX_RECORD_BYTES = 1 << 27
# A batch is closed early at this size, so that a few huge records cannot add up.
MAX_BATCH_BYTES = 1 << 26
# Up to this size protobuf parses a record, and needs up to 20 times as much memory; beyond it, `example_wire` does.
SMALL_RECORD_BYTES = 1 << 20
# Fields and values in a large record, each read by a few lines of Python: a third of a second.
MAX_WIRE_FIELDS = 1 << 18
# Characters of an image's id; a longer one is cut. Paths on Linux have at most this length.
MAX_ID_LENGTH = 4096
