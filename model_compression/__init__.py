"""Build-time tools that make the files in ``models/``; never imported at run time."""

import os
from pkgutil import extend_path

# A checkpoint may name any package, which ultralytics would install without asking.
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

# From Python 3.14 on the standard library has a package of this name, whose modules gzip and others
# import. In a checkout this one hides it.
__path__ = extend_path(__path__, __name__)
