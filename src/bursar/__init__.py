"""bursar: a hard spending cap for AI agents."""

__version__ = "0.1.0"
