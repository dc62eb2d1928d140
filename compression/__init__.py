"""Build-time tools that make the files in ``models/``; never imported at run time."""

import os

# A checkpoint may name any package, which ultralytics would install without asking.
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
