"""Conditions, divergences and statistics."""
