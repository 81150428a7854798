"""The command line: one file per job, and what jobs share. Nothing here imports TensorFlow."""
