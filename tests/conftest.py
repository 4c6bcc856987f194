"""What holds for every test: no example is timed, and one that fails can be repeated from what is printed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("house", deadline=None, print_blob=True, database=None)
settings.load_profile("house")
