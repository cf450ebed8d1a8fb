"""Why a cell is called what it is."""
