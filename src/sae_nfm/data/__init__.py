"""From text to shuffled activations."""
