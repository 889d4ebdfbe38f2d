"""Facts in files: what is read, what is shipped."""
