"""Import machines from a table or an old rescue.php, and export them as a table."""
