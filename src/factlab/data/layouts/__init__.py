"""Layouts of public files of edits and of questions about them: each read in a file of its own."""
