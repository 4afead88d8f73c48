"""The core, which knows no format: operations, graphs, weights, what they compute and what is recorded of them."""
