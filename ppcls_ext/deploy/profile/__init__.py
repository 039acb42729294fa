"""What each layer of a network costs: multiply-adds, parameters, activations and time in eager mode."""
