"""The interface to the operating system: files, signals, standard streams and the exit."""
