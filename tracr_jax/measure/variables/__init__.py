"""Values of the program's variables: as the program holds them, and as the adapter reads them."""
