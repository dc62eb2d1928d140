"""Build-time tools that make the files in ``models/``; never imported at run time."""
