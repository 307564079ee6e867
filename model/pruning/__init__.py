"""Token pruning: where selectors sit, how much they keep under a latency limit, and the rankings they must beat."""
