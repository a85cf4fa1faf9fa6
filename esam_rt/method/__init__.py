"""The method of the paper: MMG, EMR, USR and what they need. Arrays in, arrays out, no files."""
