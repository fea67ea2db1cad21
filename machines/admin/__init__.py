"""The pages of the staff: Django's admin with additional pages, such as enabling rescue, the preview and the import."""

from machines.admin import audit, images, keys, machines, notifications, sightings, tokens, users

__all__ = ["audit", "images", "keys", "machines", "notifications", "sightings", "tokens", "users"]
