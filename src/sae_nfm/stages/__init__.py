"""What a study does in order; each stage gives one part of `result.json`."""
