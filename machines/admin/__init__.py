"""The staff's face: Django's admin over the models, with pages for the switch, the preview and the timeline."""

from machines.admin import audit, images, keys, machines, notifications, sightings, tokens, users

__all__ = ["audit", "images", "keys", "machines", "notifications", "sightings", "tokens", "users"]
