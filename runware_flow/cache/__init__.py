"""The cache: results that later runs of any flow use instead of an equal request."""
