"""From many updates to one: weights, robust rules, the fold of each method, the server's optimizer."""
