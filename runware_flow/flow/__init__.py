"""The declaration of a pipeline: `Flow`, `Node`, `Many`, and the checks of a declaration."""
