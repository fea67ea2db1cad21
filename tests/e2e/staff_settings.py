"""The site's settings, with two pages for staff that no site has: each does to its process what no request should."""

from rescuesite.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.staff_urls"
