"""Many studies side by side, from their `result.json` alone: `python -m sae_nfm.compare DIR…`."""
