"""reconcile/scheduler."""
