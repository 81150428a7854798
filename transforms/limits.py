"""Limits on input from outside. Refer to them as `limits.NAME`, so that a test can lower a limit in one place."""

# Pillow's own limit for a decompression bomb (268 MB as RGB); read from the header before decoding.
MAX_PIXELS = 89_478_485
# Far above any encoded image of `MAX_PIXELS`, far below a worker's memory.
MAX_RECORD_BYTES = 1 << 27
# A batch is closed early at this size, so that a few huge records cannot add up.
MAX_BATCH_BYTES = 1 << 26
# The largest description of a model in keras.applications has 1.1 MB, and its building takes 5 s.
MAX_CONFIG_BYTES = 1 << 23
# Models inside models inside wrappers; 10 in keras.applications.
MAX_CONFIG_DEPTH = 100
# Keras builds a graph in time that grows with the square of its calls; 1,300 in keras.applications.
MAX_LAYER_CALLS = 10_000
# Of filters, units, strides, sections.
MAX_CONFIG_INTEGER = 1 << 24
# Content of a compressed file relative to the file; ordinary weights hardly compress.
MAX_EXPANSION = 16
# Of a model's input: 2,364 x 2,364 in colour.
MAX_INPUT_NUMBERS = 1 << 24
# Of what one layer computes for one image: half a gigabyte.
MAX_LAYER_NUMBERS = 1 << 27
# Of a model's output; ImageNet's full list has 21,841.
MAX_CLASSES = 1 << 18
