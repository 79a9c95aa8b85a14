"""`python -m onnxplain`."""

import sys

from .runtime.cli import main

sys.exit(main())
