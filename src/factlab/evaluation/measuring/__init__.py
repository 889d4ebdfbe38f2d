"""What is asked of one record on one edited model."""
