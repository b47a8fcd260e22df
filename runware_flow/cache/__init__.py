"""Answers that are kept for later requests of the same content: by other flows, in other processes, another day."""
