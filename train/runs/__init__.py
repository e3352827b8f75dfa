"""The folder of a run: checkpoints, results, and what the run was made with."""
