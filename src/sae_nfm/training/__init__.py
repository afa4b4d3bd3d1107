"""The training stages, on Lightning."""
