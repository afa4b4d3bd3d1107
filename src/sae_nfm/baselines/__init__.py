"""What a reconstruction is held against, at its own error."""
