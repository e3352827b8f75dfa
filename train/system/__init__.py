"""What the program asks of the operating system: files, signals, standard streams and the exit."""
