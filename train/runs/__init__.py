"""The folder of a run: checkpoints, results, writers and provenance."""
