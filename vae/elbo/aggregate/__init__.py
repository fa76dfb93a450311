"""The aggregate posterior over a reference set: density, surgery, holes, information."""
