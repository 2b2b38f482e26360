"""Videos of any kind with what sounds in them marked."""
