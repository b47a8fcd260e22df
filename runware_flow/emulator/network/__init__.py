"""Faults: as data, and in a relay whose connections break as they do in a network."""
