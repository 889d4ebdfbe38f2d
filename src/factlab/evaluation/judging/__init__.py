"""Another model, behind an address, is asked whether answers are right."""
