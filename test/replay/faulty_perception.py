"""`perception` that knows the faulty backend; its workers import this file and know it too."""

import sys

from perception_nodes.__main__ import main
from perception_nodes.hil import faulty_backend

faulty_backend.register()

if __name__ == "__main__":
    sys.exit(main())
