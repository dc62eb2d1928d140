"""Coded video: demux, decode, count, encode."""
