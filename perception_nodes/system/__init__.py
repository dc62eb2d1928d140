"""The operating system: processes, real-time settings, files, the service manager."""
