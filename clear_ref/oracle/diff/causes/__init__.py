"""Causes of a difference before the loss: wrong ids, masks, labels, pictures, decoders."""
