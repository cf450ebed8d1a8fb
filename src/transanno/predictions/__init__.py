"""From the network's outputs to labels, and what they are worth."""
