"""Which latents, and which pairs of them, what is found out about the KL is due to."""
