"""The logger: a call queues a step, and one thread hands its record to the writers."""
