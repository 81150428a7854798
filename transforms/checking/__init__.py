"""Is a classifier understood? What can be read off the model, and what only images can prove."""
