"""The journal of a run: what was bought is written down before it is sent, what came of it before it counts."""
