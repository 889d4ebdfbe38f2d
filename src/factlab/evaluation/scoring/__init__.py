"""Scores of what was measured, with their uncertainty."""
