"""Few-shot training: data order, losses, optimizers and the loop, all with runs kept apart."""
