"""One file a command of `ukd-eval`: its options, one call, its table."""
