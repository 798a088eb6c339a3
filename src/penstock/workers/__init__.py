"""Workers and the functions that they call, over anything that hands out items."""
