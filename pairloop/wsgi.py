"""The WSGI application that gunicorn serves."""

from __future__ import annotations

import gc
import os
import sys

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pairloop.settings")
application = get_wsgi_application()

# What is loaded now stays; looking through it again and again for garbage stops every request of the process.
gc.collect()
gc.freeze()
# A request waits for PostgreSQL a few times, and each time for its turn in Python behind whoever renders just then.
sys.setswitchinterval(0.001)
