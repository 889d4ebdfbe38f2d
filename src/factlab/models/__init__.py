"""Models: loading, checking, running any part of them, scoring and generating."""
