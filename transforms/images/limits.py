"""What an image may cost. Asked for as `limits.MAX_PIXELS`, so that a test can lower it in one place."""

# The bound at which Pillow too speaks of a decompression bomb (268 MB as RGB); read from the header before decoding.
MAX_PIXELS = 89_478_485
