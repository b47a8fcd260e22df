"""Engines, which run a batch on many machines."""

from runware_flow.engines.dask import DaskEngine

__all__ = ("DaskEngine",)
