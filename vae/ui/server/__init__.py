"""The web server: start, stop and the HTTP interface."""
