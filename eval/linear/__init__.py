"""Linear probes: the published protocols, heads trained together on one frozen forward pass, and honest selection."""
