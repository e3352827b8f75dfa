"""Trees of states: tags, merge, losses, replicas, microbatches, and the packed buffer."""
