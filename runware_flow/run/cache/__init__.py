"""Answers that are kept for whoever asks the same thing again: other flows, other processes, the next month."""
