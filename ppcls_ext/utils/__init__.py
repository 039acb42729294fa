"""What every part shares: errors, configuration files, atomic files, logs and plots. Imports no Paddle."""
