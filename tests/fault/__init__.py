"""Something under us dies, lies, stops or is full. Health before; inject; health and leftovers after."""
