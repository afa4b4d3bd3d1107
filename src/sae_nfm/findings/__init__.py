"""From sums to statistics, and to `result.json`."""
