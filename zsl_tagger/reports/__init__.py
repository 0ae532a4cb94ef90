"""Pages and tables that commands show."""
