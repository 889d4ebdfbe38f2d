"""An edit outside the program: saved, exported, merged into a checkpoint."""
