"""General abilities of edited models, by EleutherAI's lm-evaluation-harness."""
