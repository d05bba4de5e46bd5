"""Client libraries behind one interface."""
