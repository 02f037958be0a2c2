"""The report of runs: one page that holds everything that is known of them, and opens anywhere."""
