"""The forward pass in its fastest form: frozen, folded, in mixed precision, split across cores."""
