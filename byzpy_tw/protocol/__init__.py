"""What crosses the network: commands, tensor frames, addresses."""
