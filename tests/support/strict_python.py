"""The command of a Python to which a warning is an error."""

import sys

RACE = "ignore:Error reading persistent compilation cache entry"
"""The filter of a warning that does not concern the code under test.

JAX writes an entry of its compilation cache in place, so a process that looks for a program while another one
writes it, or after that one was killed, reads a part; JAX warns and compiles the program itself.
"""

# With the class named, as Python skips an option that PYTHONWARNINGS has too.
STRICT_PYTHON = (sys.executable, "-W", "error", "-W", f"{RACE}:UserWarning")
