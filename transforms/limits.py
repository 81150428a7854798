"""What bytes from outside may cost. Asked for as `limits.NAME`, so that a test can lower one in one place."""

# The bound at which Pillow too speaks of a decompression bomb (268 MB as RGB); read from the header before decoding.
MAX_PIXELS = 89_478_485
# Far above any encoded image of `MAX_PIXELS`, far below a worker's memory.
MAX_RECORD_BYTES = 1 << 27
# A batch closes early once it holds this much, so that a few huge records cannot add up.
MAX_BATCH_BYTES = 1 << 26
