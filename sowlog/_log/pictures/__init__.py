"""Pictures: checked on the training thread, drawn on the writer thread, the same pixels on each machine."""
