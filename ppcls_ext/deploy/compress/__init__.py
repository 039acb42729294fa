"""Makes networks smaller and faster: pruning of whole channels, and weights and activations of 8 bits."""
