"""Stands in for scikit-learn in the processes that tests start.

Keras imports it wherever it is installed, which takes a second. Only the tests themselves use it.
"""

raise ImportError("not for this process: see tests/helpers/without_sklearn")
