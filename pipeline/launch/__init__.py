"""Before a pipeline starts: listing sources, a first look at the images, the run's folder, progress."""
