"""One file per job: the recipe that `odin-beam JOB` follows."""
