"""Imported by every Python program that is started while a mutation is switched on; see `mutations.switch`."""

import os
import traceback

from mutations import switch

try:
    switch.throw()
except Exception:  # noqa: BLE001 - the border of the process
    # Python would say so and go on, unchanged.
    traceback.print_exc()
    os._exit(70)
