"""Fast weights and their rivals on one text, in one table."""
