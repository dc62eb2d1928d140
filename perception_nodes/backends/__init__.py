"""Inference runtimes behind one contract, one file each, imported when first used."""
