"""Evaluation protocols: every figure from one extraction of features. Imported as `ukd.eval`, never as `eval`."""

if __name__ != "ukd.eval":
    raise ImportError(f"import this package as 'ukd.eval', not as {__name__!r}: its modules rely on that one name")
