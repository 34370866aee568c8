"""The inventory that pyinfra reads: the fleet file of $FLEET, else inventories/fleet.yaml."""

import sys
from pathlib import Path

# pyinfra puts the working directory last, and nothing of ours on the path from elsewhere.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from deploys.common import unreached as _unreached
from inventories import groups as _groups

globals().update(_groups.pyinfra_groups())
_unreached.summarise_unreached()
