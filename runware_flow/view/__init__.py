"""The views of a run: pure functions from events and outcomes to text, HTML and diagrams. Nothing here prints."""
