"""Fast Weight Layers for Keras."""
