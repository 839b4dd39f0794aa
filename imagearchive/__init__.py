"""Open archives of training data where they lie.

The public names are imported on first use, so ``import imagearchive`` loads NumPy and no more.
"""
