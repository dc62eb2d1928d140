"""The interface to the operating system: processes, real time, files, the service manager."""
