"""The output of the program on a terminal."""
