"""JSON lines: the form of a line, its parsing, and the reader of a run of them."""
