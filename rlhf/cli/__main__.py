"""`python -m rlhf.cli`, which is how one commit's code starts that of another."""

import sys

from rlhf.cli.main import main

sys.exit(main())
