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
# Up to this size protobuf parses a record, and needs up to 20 times as much memory; beyond it, `example_wire` does.
SMALL_RECORD_BYTES = 1 << 20
# Fields and values in a large record, each read by a few lines of Python: a third of a second.
MAX_WIRE_FIELDS = 1 << 18
# Characters of an image's id; a longer one is cut. Paths on Linux have at most this length.
MAX_ID_LENGTH = 4096
# Of the label in a large record: one-hot floats of `MAX_CLASSES`.
MAX_LABEL_BYTES = 1 << 20
# A progressive JPEG has about 10 scans; each costs a pass over the whole image, whatever it contains.
MAX_JPEG_SCANS = 100
# 100 MB of extended XMP are 1,600 segments; Pillow handles each in Python.
MAX_JPEG_SEGMENTS = 4096
# 4 MB; Pillow joins them one by one.
MAX_EXIF_SEGMENTS = 64
# libpng writes chunks of 8 kB, so this is far above any PNG in a record; Pillow handles each in Python.
MAX_PNG_CHUNKS = 1 << 16
# Each may be unpacked to 1 MB. A PNG has one colour profile, and a few texts.
MAX_PNG_COMPRESSED = 128
# Comments are joined piece by piece, in a time that grows with the square of their length.
MAX_GIF_COMMENT_BYTES = 1 << 16
# 25 MB of metadata in the largest pieces; each is read in Python.
MAX_GIF_BLOCKS = 100_000
# Pillow decodes run-length coding in Python, about a million runs, of two bytes each, in a second.
MAX_RLE_BYTES = 1 << 23
# Features of an image up to which matrices of their pairs are kept: 128 MB each.
MAX_SCATTER_WIDTH = 4096
# Classes times features, for means by class: 64 MB each; ImageNet's 1,000 classes with 4,096 features are half of it.
MAX_CLASS_MEANS = 1 << 23
# Of a reference; 0.4 GB with 1,000 classes, 2,048 features and a bank of 10,000.
MAX_REFERENCE_BYTES = 1 << 32
