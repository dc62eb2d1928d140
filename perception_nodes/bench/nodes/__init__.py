"""Nodes that only measurements need: the receiver, and inference with nothing around it."""
