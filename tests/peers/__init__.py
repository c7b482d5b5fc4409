"""The specification against independent implementations, which are run in float64 throughout."""
