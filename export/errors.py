"""The one error of this package."""


class ExportError(ValueError):
    """An export that cannot be made, or one that does not compute what the specification says; one sentence."""
