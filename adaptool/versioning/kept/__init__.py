"""What Git keeps of adapters: the sides of a comparison, their blobs, and the history that leads to them."""
