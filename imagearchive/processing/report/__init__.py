"""Reports on datasets: what is in them, and what is wrong with them."""
