"""Statistics of ordinary text that closed-form editing needs: the second moment C of MLP keys."""
