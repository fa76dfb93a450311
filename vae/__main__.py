"""Lets ``python -m vae`` run the command line."""

import os
import sys
import warnings

# Set before torch loads its threads. By default they spin while they wait, and two programs that
# spin on the same cores slow each other down by tens of times; asleep, they share.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What Pillow warns of in an image file is either refused or harmless.
warnings.filterwarnings("ignore", module=r"PIL\b")

from vae.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
