"""What commands show: pages, tables, progress."""
