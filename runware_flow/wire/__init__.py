"""Bytes to types and back: `codec` encodes tasks, `frames` decodes replies, `problems` makes errors."""
