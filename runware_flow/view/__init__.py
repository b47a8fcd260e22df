"""What people see: pure functions from the events and outcomes of a run. Nothing here prints."""
