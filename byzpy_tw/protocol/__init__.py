"""The network protocol: commands, tensor frames, addresses."""
