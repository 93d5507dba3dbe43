"""Feature networks of published metrics, with the layers and names of their public parameters."""
