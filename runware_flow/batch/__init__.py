"""Batches: one pipeline for each item of a source of any length."""
