"""Studies: what an edit's success depends on. Many evaluations with one picture and one table."""
