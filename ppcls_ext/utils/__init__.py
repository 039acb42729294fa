"""Shared by all packages: errors, configuration files, atomic files, logs and plots. Imports no Paddle."""
