"""Nodes: parameters in, vector out."""
