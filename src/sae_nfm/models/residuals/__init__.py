"""Models of an SAE's residual: what they add to its reconstruction."""
