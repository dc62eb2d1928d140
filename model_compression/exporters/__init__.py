"""Exporters of checkpoints as ONNX, for `perception model import`.

All but `start` import nothing of ours, since they run in an environment of their own, and never in
the process of a command: reading a `.pt` runs what its author put there.
"""
