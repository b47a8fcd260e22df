"""What users declare and run: `Flow`, `Node`, `Many`, the runner behind them, and the result."""
