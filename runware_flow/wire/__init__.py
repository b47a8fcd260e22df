"""Bytes to types and types to bytes: `codec` for what is asked, `frames` for what comes back, `problems` for errors."""
