"""From any PyTorch module to a search space: what `nas.elastic` is made of."""
