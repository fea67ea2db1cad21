"""Many machines at once: read from a table or an old rescue.php, compared with what there is, and taken over."""
