"""Builds in the admin: the form, its preview, the pages."""
