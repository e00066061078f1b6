"""reconcile/allocator."""
