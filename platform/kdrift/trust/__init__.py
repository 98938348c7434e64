"""How far a reconstruction can be believed."""
