"""`python -m citadel.embed_files`, for who has no console scripts."""

import sys

from citadel.embed_files.command import main

sys.exit(main())
