"""Longer runs of the fault kit, with the seed and the figures printed: `make soak SEED=... MINUTES=...`."""
