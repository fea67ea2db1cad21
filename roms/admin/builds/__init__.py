"""The admin pages of builds."""
