"""Questions beside an edited fact, made of facts: what an edit changes, or must keep, elsewhere."""
