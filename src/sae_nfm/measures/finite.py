"""What ends a study whose numbers are no numbers any more."""


class NonFinite(RuntimeError):
    """A loss, a figure or a KL is NaN or infinite, or worse than nothing."""
