"""What commands show: pages and tables."""
