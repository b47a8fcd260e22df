"""What users declare: `Flow`, `Node`, `Many`, and the checks of a declaration."""
