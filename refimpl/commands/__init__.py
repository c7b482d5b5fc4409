"""The sub-commands, one module a concern; what they need beyond the specification is imported when they run."""
