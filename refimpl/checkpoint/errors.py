"""The one error of this package."""


class CheckpointError(ValueError):
    """A checkpoint that is not what its format says; the message is one sentence that names the file."""
