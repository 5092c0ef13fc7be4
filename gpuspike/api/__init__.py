"""The front door for Python: networks, chips, training, prices and files as a user holds them."""
