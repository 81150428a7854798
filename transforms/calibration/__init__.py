"""`calibration.json`: what `tune` found for a classifier, and what later scores are held against.

Its keys:

    model, settings     which classifier, and the settings of `score` under which the figures hold
    objective           what was looked at, against which images, and whether these were surrogates
    choice, grid        the cell taken, its gains with their intervals, every cell's figures
    detectors           the same figures of the detectors that need no tuning
    thresholds          by detector, a table from true positive rate to threshold
    scores              by detector, the calibration scores themselves as steps, see `conformal.CalibrationScores`
    class_scores        by detector and predicted class, where that was asked for
    sources, cost, warnings, versions
"""
