"""What is measured of tokens, and the sums that figures are made of."""
