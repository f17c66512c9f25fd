"""Serving: SavedModels that take text, for TensorFlow Serving. TensorFlow only."""
