"""`calibration.json`: the result of `tune` for a classifier, against which later scores are compared.

Its keys:

    model, settings     which classifier, and the settings of `score` under which the figures hold
    objective           the objective, the images compared against, and whether these were surrogates
    choice, grid        the chosen cell, its gains with their intervals, the figures of every cell
    detectors           the same figures for the detectors that need no tuning
    thresholds          by detector, a table from true positive rate to threshold
    scores              by detector, the calibration scores themselves as steps, see `conformal.CalibrationScores`
    class_scores        by detector and predicted class, if requested
    sources, cost, warnings, versions
"""
