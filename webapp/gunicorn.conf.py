"""gunicorn's configuration: `gunicorn --config webapp/gunicorn.conf.py "webapp:create_app()"`."""  # noqa: N999

import logging

from flight_delays.infra.printable import log_to_stderr
from flight_delays.settings import get_settings

log_to_stderr(logging.WARNING)
_settings = get_settings()

bind = _settings.web_address
workers = _settings.web_workers
worker_class = "gthread"  # a slow client holds a thread: docker/nginx.conf, in front, passes on whole requests only
threads = _settings.web_threads
worker_connections = threads + 500  # below the usual limit of 1,024 open files
keepalive = 30
timeout = 60
graceful_timeout = 5  # a submission takes 3 s at most; a long poll that is cut asks again
control_socket_disable = True
forwarded_allow_ips = ""  # the application reads X-Forwarded-*, where FLIGHTS_WEB_PROXIES allows it
# nginx refuses longer requests, in the application's form.
limit_request_line = 8190
limit_request_field_size = 8192
limit_request_fields = 8000
