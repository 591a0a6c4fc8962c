"""The arithmetic of a round: from a state and the nodes' vectors to the next state."""
