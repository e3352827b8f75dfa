"""The files of a run: event files, made, appended to, read back; and JSON lines, read back."""
