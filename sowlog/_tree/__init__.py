"""Trees of states: tags, merge, losses, replicas, microbatches, and one packed buffer."""
