"""Tables, pictures and files made of runs."""
