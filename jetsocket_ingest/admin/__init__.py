"""HTTP for operators and orchestrators: is it alive, is data flowing, what are its numbers."""
