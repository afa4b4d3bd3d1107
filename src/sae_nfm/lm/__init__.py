"""The frozen language model, cut at a site."""
