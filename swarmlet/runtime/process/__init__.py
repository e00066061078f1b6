"""runtime/process."""
