"""Django's settings, and the only place that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path

from csp.constants import NONE, SELF

from pairloop.lib import files, logs, places
from pairloop.lib.env import env_bool, env_int, env_list, env_path, env_text, env_url
from pairloop.up import postgres

BASE_DIR = Path(__file__).resolve().parent.parent

# --- State -------------------------------------------------------------------------------------------

VAR = env_path("PAIRLOOP_VAR", default=BASE_DIR / "var")
SOCKETS = places.socket_folder(VAR)
BASES = VAR / "bases"
#: Adapters by hash; run folders by model and round; the reference's log-probabilities by its hash.
VERSIONS = VAR / "versions"
ROUNDS = VAR / "rounds"
SCORES = VAR / "scores"
#: Files of preference pairs, until they are imported; larger ones than this many MiB are refused.
IMPORTS = VAR / "imports"
IMPORT_MIB = env_int("PAIRLOOP_IMPORT_MIB", default=2048, least=1)
#: The supervisor writes here what engine and workers are doing; pages read it.
STATUS_FILE = SOCKETS / "status.json"
ML_PYTHON = env_path("PAIRLOOP_ML_PYTHON", default=BASE_DIR / ".venv-ml" / "bin" / "python")

# --- Database ----------------------------------------------------------------------------------------

#: Empty: the embedded PostgreSQL that `manage.py up` runs.
DATABASE_URL = env_text("PAIRLOOP_DATABASE_URL")
DATABASES = {
    "default": (
        postgres.database_of_url(DATABASE_URL)
        if DATABASE_URL
        else postgres.Cluster.of(VAR).database()
    )
    | {
        # A new one has every statement to learn again.
        "CONN_MAX_AGE": 600,
        # Without this, each thread's first request after a database restart fails.
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Engine ------------------------------------------------------------------------------------------

#: Registered models whose engines `manage.py up` starts, as in "demo,mine"; the first makes the demo.
MODELS = list(dict.fromkeys(env_list("PAIRLOOP_MODEL", default=["demo"])))
#: Set to use a vLLM that somebody else runs: http://host:port or unix:///path. Then none is started. Else it
#: is where the first model's engine listens; models_registry.serving knows where the others' do.
ENGINE_URL = env_url(
    "PAIRLOOP_ENGINE_URL",
    schemes=("unix", "http", "https"),
    default=f"unix://{SOCKETS / 'engine.sock'}",
)
ENGINE_IS_OURS = not env_text("PAIRLOOP_ENGINE_URL")
ENGINE_KEY = env_text("PAIRLOOP_ENGINE_KEY")
#: Seconds that one sampling request may take; 32 completions of 128 tokens take about 70 s on 2 cores.
ENGINE_TIMEOUT = env_int("PAIRLOOP_ENGINE_TIMEOUT", default=300, least=1)
#: Cores that vLLM binds on a CPU, as in "0-1"; empty: all of them.
ENGINE_CORES = env_text("PAIRLOOP_ENGINE_CORES")
#: GiB of memory for vLLM's key-value cache on a CPU.
ENGINE_CACHE_GIB = env_int("PAIRLOOP_ENGINE_CACHE_GIB", default=1, least=1)
#: How many requests Pairloop has under way at the engine at once; each asks for several completions.
ENGINE_REQUESTS = env_int("PAIRLOOP_ENGINE_REQUESTS", default=8, least=1)

# --- Training ----------------------------------------------------------------------------------------

#: CPU threads of the trainer; it gets out of the way of engine and pages by its niceness.
TRAINER_THREADS = env_int("PAIRLOOP_TRAINER_THREADS", default=len(os.sched_getaffinity(0)), least=1)
TRAINER_NICE = env_int("PAIRLOOP_TRAINER_NICE", default=10)
#: Seconds after its last sign of life when an attempt at a round counts as dead.
LEASE_S = env_int("PAIRLOOP_LEASE_SECONDS", default=30, least=5)

#: Held-out prompts that a new version is asked; 24 take a minute or two on two cores.
EVALUATION_PROMPTS = env_int("PAIRLOOP_EVALUATION_PROMPTS", default=24, least=1)

# --- Web ---------------------------------------------------------------------------------------------

BIND = env_text("PAIRLOOP_BIND", "127.0.0.1:8000")
DEBUG = env_bool("PAIRLOOP_DEBUG", default=False)
SECRET_KEY = env_text("PAIRLOOP_SECRET_KEY") or files.secret(VAR / "secrets" / "django")
ALLOWED_HOSTS = env_list("PAIRLOOP_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env_list("PAIRLOOP_ORIGINS", default=[])
#: Set when a reverse proxy ends TLS in front of Pairloop.
HTTPS = env_bool("PAIRLOOP_HTTPS", default=False)

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "csp",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    "template_partials",
    "procrastinate.contrib.django",
    "models_registry",
    "annotate",
    "training",
    "pairloop.accounts",
    "pairloop.up",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # Behind whitenoise, so static files leave no line.
    "pairloop.lib.middleware.RequestLog",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Everything needs a login, but what says otherwise.
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "pairloop.urls"
WSGI_APPLICATION = "pairloop.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": [
                "template_partials.templatetags.partials",
                "django_htmx.templatetags.django_htmx",
                "django.templatetags.static",
                "pairloop.lib.tags",
            ],
        },
    }
]
STATIC_URL = "static/"
STATIC_ROOT = VAR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "pairloop.lib.statics.Storage"},
}
# whitenoise's own, and the maps of Swagger UI's scripts, which only a debugger asks for.
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = [
    "jpg", "jpeg", "png", "gif", "webp", "zip", "gz", "tgz", "bz2", "tbz", "xz", "br", "woff", "woff2", "map",
]  # fmt: skip

LANGUAGE_CODE = "en-us"
TIME_ZONE = env_text("PAIRLOOP_TIME_ZONE", "UTC")
USE_I18N = True
USE_TZ = True

# --- Safety ------------------------------------------------------------------------------------------

SESSION_ENGINE = "pairloop.accounts.sessions"
AUTHENTICATION_BACKENDS = ["pairloop.accounts.backends.Accounts"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
#: Seconds that a link to set a password works.
PASSWORD_RESET_TIMEOUT = 3 * 86_400
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
    )
]
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
#: Requests to the REST API that a user may send in a minute, over all processes; 0: as many as they like.
API_PER_MINUTE = env_int("PAIRLOOP_API_PER_MINUTE", default=600)
REST_FRAMEWORK = {
    # The first one says how a missing login is answered: with 401.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "pairloop.accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["pairloop.accounts.throttles.PerMinute"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["pairloop.lib.bodies.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "pairloop.lib.schema.Schema",
    # An address is described by the words that it is written in.
    "SCHEMA_COERCE_PATH_PK": False,
    "EXCEPTION_HANDLER": "pairloop.lib.api.error_answer",
    # Without it, limits would believe any X-Forwarded-For.
    "NUM_PROXIES": 1 if HTTPS else 0,
}
KNOX_TOKEN_MODEL = "accounts.Token"  # noqa: S105 a model's name
REST_KNOX = {"TOKEN_PREFIX": "pl_"}
# Its own table would stay empty beside ours.
MIGRATION_MODULES = {"knox": None}
SPECTACULAR_SETTINGS = {
    "TITLE": "Pairloop",
    "DESCRIPTION": (
        "Prompts, pairs, judgements, triples, rounds and versions. Labelers may ask for assignments and judge; "
        "everything else is for staff, and what somebody may not see is 404. Every refusal is "
        '`{"detail": "what to do", "code": "for_machines"}`.'
    ),
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SERVE_INCLUDE_SCHEMA": False,
    # Without the hook that gives enumerations names of their own: three kinds of `state` would fight for one.
    "POSTPROCESSING_HOOKS": ["pairloop.lib.schema.refusals_add"],
}
# Plain HTTP on 127.0.0.1 is the default, so `check --deploy` only asks for TLS settings behind a proxy.
SILENCED_SYSTEM_CHECKS = (
    ["security.W021"]
    if HTTPS
    else ["security.W004", "security.W008", "security.W012", "security.W016"]
)

LOGGING = logs.settings_of(env_text("PAIRLOOP_LOG_LEVEL", "INFO"))
PROCRASTINATE_WORKER_DEFAULTS = {"worker_middleware": [logs.job_bound]}
