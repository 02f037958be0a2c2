"""Image retrieval: the field's benchmarks as pure functions of arrays, and the readers of their data sets."""
