"""One file for each family of sparse autoencoders."""
